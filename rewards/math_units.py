"""The unit or remark after a value, and which units agree.

A unit is measures with powers, `{"km": 1, "hour": -1}`, and remarks, the words that are no
measure: `12 red apples`. Nothing is converted: kilojoules are not joules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_NAMES = (
    "inch inches in",
    "foot feet ft",
    "yard yards yd",
    "mile miles mi",
    "second seconds sec secs s",
    "minute minutes min mins",
    "hour hours hr hrs h",
    "day days",
    "week weeks",
    "month months",
    "year years yr yrs",
    "pound pounds lb lbs",
    "ounce ounces oz",
    "ton tons tonne tonnes",
    "gallon gallons gal",
    "quart quarts qt",
    "pint pints pt",
    "acre acres",
    "hectare hectares ha",
    "degree degrees deg",
    "celsius C",
    "fahrenheit F",
    "radian radians rad",
    "unit units",
    "kelvin kelvins K",
    "dollar dollars USD",
    "cent cents",
    "euro euros EUR",
    "sterling GBP quid",
    "yen JPY",
    "rupee rupees INR Rs",
    "won KRW",
    "ruble rubles RUB",
    "yuan RMB CNY",
    "% percent percentage pct",
)
"""The measures without prefixes; the first spelling is the name."""
_PREFIXES = {
    "": "",
    "kilo": "k",
    "mega": "M",
    "giga": "G",
    "tera": "T",
    "centi": "c",
    "deci": "d",
    "milli": "m",
    "micro": "u",
    "nano": "n",
}
_PREFIXED = (
    "m meter metre",
    "g gram gramme",
    "L liter litre l",
    "N newton",
    "J joule",
    "W watt",
    "V volt",
    "A ampere amp",
    "Hz hertz",
    "Pa pascal",
    "ohm",
    "B byte",
    "bit",
    "mol mole",
    "eV",
    "Wh",
    "cal calorie",
)
"""Those with prefixes: `km` and `kilometers`."""
_ALIASES = {
    "mph": "mile/hour",
    "kph": "km/hour",
    "kmh": "km/hour",
    "cc": "cm^3",
    "kmph": "km/hour",
}
_MONEY = frozenset("dollar cent euro sterling yen rupee won ruble yuan".split())
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_FILLERS = frozenset("of the a an in each total about all".split())
_WORD = r"(?:[A-Za-z]+\.?(?![A-Za-z{])|[^\W\d_A-Za-z]+)"
_PART = (
    rf"\s*(?:\\text\{{(?:[^{{}}\d]*| modulo \w+)\}}|(?<=\s)\(\s*[A-Za-z]{{3,}}[A-Za-z ]*\)|(?<![A-Za-z\\]){_WORD}|%)"
    rf"(?:\s*\^\s*\{{?-?\d\}}?)?(?:\s*(?:/|\\cdot(?![a-z])))?"
)
_TAIL = re.compile(rf"(?:{_PART})+\s*$")
_TOKEN = re.compile(r"((?<=modulo )\w+|[^\W\d_]+|%)\.?(?:\^\{?(-?\d)\}?)?|(/)")


@dataclass(frozen=True)
class Unit:
    """Measures with their powers, and the words that are none."""

    measures: frozenset[tuple[str, int]]
    remarks: frozenset[str]

    @property
    def is_percent(self) -> bool:
        return ("%", 1) in self.measures

    def agrees(self, other: Unit) -> bool:
        """Whether both may be the unit of one value: a remark may be left out, and after money
        what it is paid for.
        """
        if self.measures != other.measures and self.measures and other.measures:
            return self._paid() == other._paid() is not None
        left, right = self._words(), other._words()
        return left <= right or right <= left

    def _words(self) -> frozenset[str]:
        return self.remarks | {name for name, _ in self.measures}

    def _paid(self) -> str | None:
        """The money of `dollars per hour`, where the rest divides it."""
        above = [name for name, power in self.measures if power > 0]
        return above[0] if len(above) == 1 and above[0] in _MONEY else None


def split_unit(text: str, *, letters: bool = False) -> tuple[str, Unit | None]:
    """A tidy answer without its unit, and the unit: `5\\text{ cm}^2` is `5` and square centimetres.

    letters: whether a letter after a plain number is a unit too, `m` of `5 m`, and no variable.
    """
    match = _TAIL.search(text)
    for start in _starts(match) if match else ():
        before, tail = text[:start], text[start:]
        if before.strip() and _is_unit(tail, before, letters):
            return before.strip(), read_unit(tail)
    return text, None


def _starts(match: re.Match[str]) -> Iterator[int]:
    """Where a unit may begin: `5x cm` ends in a variable and a unit."""
    for part in re.finditer(_PART, match[0]):
        yield match.start() + part.start()


@lru_cache(maxsize=4096)
def read_unit(text: str) -> Unit:
    """The unit in words or symbols: `sq. cm`, `km/h`, `kilometers per hour`, `m s^{-1}`."""
    bare = re.sub(r"\\text\{([^{}]*)\}", r" \1", text).replace("\\cdot", " ")
    bare = re.sub(r"[()]", " ", re.sub(r"\bin (?:total|all)\b", " ", bare))
    bare = re.sub(r"\s*\^\s*", "^", bare)
    measures: Counter[str] = Counter()
    remarks = set()
    sign, scale, last = 1, 1, ""
    for word, power, slash in _TOKEN.findall(bare):
        if slash or word == "per":
            sign = -1
        elif word.lower() in _POWERS:
            if word.lower().endswith("ed") and last:
                measures[last] *= _POWERS[word.lower()]
            else:
                scale = _POWERS[word.lower()]
        elif name := measure(word):
            parts = re.findall(r"(/?)([^/^]+)(?:\^(\d))?", name)
            for divided, part, built_in in parts:
                direction = -sign if divided else sign
                measures[part] += direction * scale * int(power or built_in or 1)
                last = part
            scale = 1
        elif word.lower() not in _FILLERS:
            remarks.add(_singular(word.lower()))
    return Unit(frozenset((n, p) for n, p in measures.items() if p), frozenset(remarks))


def measure(word: str) -> str:
    """The name of a measure, "" for a word that is none."""
    return _MEASURES.get(word) or (_MEASURES.get(word.lower(), "") if len(word) > 2 else "")


def _is_unit(tail: str, before: str, letters: bool) -> bool:
    """Whether the words at the end of an answer are its unit, not symbols."""
    bare = re.sub(r"\\text\{[^{}]*\}|\([^()]*\)", "", tail)
    words = re.findall(r"[^\W\d_]+|%", bare)
    if not words:
        return bool(re.search(r"(?:[\w)}!%|]|\d\.)\s*$", before))
    apart = re.search(r"[\d)}!%]$", before) or re.match(r"\s", tail) or "%" in words
    if not apart:
        return False
    number = re.fullmatch(r"[-+]?[\d,. ]*\d[\d,.]*", before.strip()) is not None
    if all(measure(word) or word.lower() in _POWERS or word == "per" for word in words):
        return len("".join(words)) > 1 or "%" in words or (letters and number)
    spaced = tail[:1].isspace() or not words[0].isascii()
    long = all(len(word) > 2 or measure(word) or not word.isascii() for word in words)
    return number and spaced and long and words != ["pi"]


def _singular(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith("ss"):
        return word
    return word[:-2] if re.search(r"(?:x|ch|sh|ss)es$", word) else word[:-1]


def _spellings() -> dict[str, str]:
    table = {spelling: names.split()[0] for names in _NAMES for spelling in names.split()}
    for names in _PREFIXED:
        symbol, *long = names.split()
        for prefix, short in _PREFIXES.items():
            name = short + symbol
            table |= {name: name}
            table |= {f"{prefix}{word}{end}": name for word in long for end in ("", "s")}
    # a small l and a minute's sign are as usual as L and min
    table |= {"ml": "mL", "l": "L", "hz": "Hz", "KB": "kB"}
    return table | _ALIASES


_MEASURES = _spellings()
