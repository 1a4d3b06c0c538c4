"""Reading one final answer: a single spelling for what looks the same, and the number, unit, choice or words in it."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_INTEGER = r"(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+|\d+)"
_REPEATING = re.compile(r"([-+]?)(\d*)\.(\d*)\\overline\{(\d+)\}")
_PLAIN = re.compile(rf"[-+]?(?:{_INTEGER}(?:\.\d*)?|\.\d+)")
_FRACTION = re.compile(
    r"([-+]?)(?:(\d+)(?: (?=\d)|(?=\\))| ?)(?:\\frac\{([-+]?\d+)\}\{(\d+)\}|(\d+)/(\d+))"
)
_SCIENTIFIC = re.compile(r"([-+]?\d+(?:\.\d*)?)(?:[eE]|\\times10\^)\{?([-+]?\d{1,3})\}?")
_CHOICE = re.compile(
    r"(?:option|choice|answer)?[ :]*(?:\(([A-J])\)|([A-J])(?=[).:]|$))[).:]*(.*)",
    re.IGNORECASE | re.DOTALL,
)
_UNIT_TAIL = re.compile(
    r"(?<=[\d})! %])(?:\s*\\text\{([^{}]*)\}|\s*\b([A-Za-z][A-Za-z ./]*?))\.?\s*(?:\^\{?(-?\d)\}?)?$"
)
_FUNCTIONS = frozenset(
    "sin cos tan cot sec csc log ln exp max min gcd lcm mod det arcsin arccos arctan sqrt frac pi".split()
)
_SYMBOLS = str.maketrans(
    {
        "\u2212": "-",
        "\u00d7": "\\times ",
        "\u00b7": "\\cdot ",
        "\u00f7": "/",
        "\u00b1": "\\pm ",
        "\u221a": "\\sqrt ",
        "\u221e": "\\infty ",
        "\u2264": "\\le ",
        "\u2265": "\\ge ",
        "\u2260": "\\ne ",
        "\u2208": "\\in ",
        "\u222a": "\\cup ",
        "\u2229": "\\cap ",
        "\u2205": "\\emptyset ",
        "\u03c0": "\\pi ",
        "\u00b0": "^\\circ ",
        "\u00bd": "\\frac12",
        "\u2153": "\\frac13",
        "\u2154": "\\frac23",
        "\u00bc": "\\frac14",
        "\u00be": "\\frac34",
        "\u00b2": "^2",
        "\u00b3": "^3",
        "\u2074": "^4",
    }
)
"""Letters of other alphabets that stand for LaTeX."""
_UNITS = {
    alias: names.split()[0]
    for names in (
        "m meter meters metre metres",
        "cm centimeter centimeters centimetre centimetres",
        "mm millimeter millimeters",
        "km kilometer kilometers kilometre kilometres",
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
        "year years",
        "g gram grams",
        "kg kilogram kilograms",
        "mg milligram milligrams",
        "pound pounds lb lbs",
        "ounce ounces oz",
        "liter liters litre litres L l",
        "ml mL milliliter milliliters",
        "dollar dollars USD",
        "cent cents",
        "degree degrees deg",
        "radian radians rad",
        "mph",
        "unit units",
        "euro euros EUR",
    )
    for alias in names.split()
}


_SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_SCALED = re.compile(
    rf"^([-+]?\d[\d,]*(?:\.\d+)?)\s*(?:\\text\{{\s*)?({'|'.join(_SCALES)})\b\s*\}}?",
    re.IGNORECASE,
)


@lru_cache(maxsize=65536)
def tidy(text: str) -> str:
    """One spelling for what looks the same: spaces, signs of money, kinds of fractions and text, separators of lists."""
    text = text.translate(_SYMBOLS).strip().strip("*").strip()
    while len(text) > 1 and text[0] == "$" == text[-1]:
        text = text[1:-1].strip()
    text = re.sub(r"\\[dt]frac|\\cfrac", r"\\frac", text)
    text = re.sub(
        r"\\(?:mbox|mathrm|textbf|textit|textrm|mathbf|operatorname|textsf)\s*\{",
        r"\\text{",
        text,
    )
    text = re.sub(
        r"\\(?:left|right|big|Big|bigg|Bigg)(?![a-z])[lr]?|\\displaystyle|\\limits", "", text
    )
    text = re.sub(
        r",\\!|\{,\}|(?<=\d)\\[,; ](?=\d{3}(?!\d))|(?<=\d)~(?=\d{3}(?!\d))", ",", text
    )
    text = re.sub(r"(?<!\\)\\[!,;: ]|~|\\text\{\s*\}", " ", text)
    text = re.sub(r"\\pmod\s*(\w)", r"\\pmod{\1}", text)
    text = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\degree", r"\\text{ degrees}", text)
    text = re.sub(r"\\?%|\bper ?cent\b", "%", text).replace("\\$", "$").replace("$", "")
    text = text.replace("\\varnothing", "\\emptyset")
    text = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", text)
    if "\\begin" not in text:
        text = re.sub(
            r"\s*(?:\\text\{\s*,?\s*(?:and|or)\s*\}|,?\s\b(?:and|or)\b|\\q?quad|\\\\|;|\n)[\s,]*",
            ", ",
            text,
        )
    text = _SCALED.sub(_scaled, text)
    text = re.sub(r"\s*\\times\s*", r"\\times", re.sub(r"\s+", " ", text)).strip()
    if re.fullmatch(r"-?[\d.]+(?: -?[\d.]+)+", text) and not _PLAIN.fullmatch(text):
        text = text.replace(" ", ", ")
    return _braced(text).rstrip(".").strip()


def _scaled(match: re.Match[str]) -> str:
    value = Fraction(match[1].replace(",", "")) * _SCALES[match[2].lower()]
    return str(value.numerator) if value.denominator == 1 else match[0]


def plain_number(text: str) -> Fraction | None:
    """The value of one number: `1,234.5`, `$5`, `12%` (12), `3/4`, `\\frac{3}{4}`, `3\\frac{1}{2}`, `1.5e3`; else None."""
    text = tidy(text).rstrip("%").strip()
    if len(text) > 100:
        return None
    if _PLAIN.fullmatch(text):
        return Fraction(re.sub("[, ]", "", text).rstrip("."))
    if match := _FRACTION.fullmatch(text):
        sign, integer, *pairs = match.groups()
        above, below = next(
            (int(a), int(b)) for a, b in (pairs[:2], pairs[2:]) if a is not None
        )
        value = Fraction(above, below) + int(integer or 0) if below else None
        return value if value is None or sign != "-" else -value
    if match := _REPEATING.fullmatch(text):
        sign, integer, once, again = match.groups()
        value = Fraction(
            int(f"{integer or 0}{once}{again}") - int(f"{integer or 0}{once}"),
            10 ** len(once) * (10 ** len(again) - 1),
        )
        return -value if sign == "-" else value
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(match[1].rstrip(".")) * Fraction(10) ** int(match[2])
    return None


def choice(text: str) -> str:
    """The letter of a multiple-choice answer, `B` of `(B) 12 cm`; "" if it is none or names a second one."""
    match = _CHOICE.fullmatch(unwrapped(text))
    if match is None or re.search(r"\([A-J]\)|\b[A-J]\b(?=[).:,]|$)", match[3]):
        return ""
    return (match[1] or match[2]).upper()


def split_unit(text: str, *, letters: bool = False) -> tuple[str, tuple[str, int] | None]:
    """A tidy answer without its unit, and the unit's name and power: `5\\text{ cm}^2` is `5`, ("cm", 2). Unknown names are "".

    letters: whether a letter after a plain number is a unit too, `m` of `5 m`, and no variable.
    """
    if text.endswith("%"):
        return text[:-1].strip(), ("%", 1)
    match = _UNIT_TAIL.search(text)
    if match is None or (match[2] and not _is_unit(match[2], text[: match.start()], letters)):
        return text, None
    words = (match[1] or match[2] or "").split()
    power = int(match[3] or 1)
    for word in words:
        power *= {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cubed": 3}.get(
            word.lower(), 1
        )
    names = [
        "/".join(_UNITS[part] for part in word.split("/")) for word in words if _known(word)
    ]
    return text[: match.start()].strip(), (
        names[0] if len(names) == 1 and len(words) <= 2 else "",
        power,
    )


def _known(word: str) -> bool:
    return all(part in _UNITS for part in word.split("/"))


def _is_unit(words: str, before: str, letters: bool) -> bool:
    """Whether bare words after a number are its unit, not symbols."""
    if letters and _PLAIN.fullmatch(before.strip()) and _known(words.strip()):
        return True
    known = (
        all(_known(word) or word in ("square", "cubic", "sq") for word in words.split())
        and len(words.strip()) > 1
    )
    return known or (_PLAIN.fullmatch(before.strip()) is not None and len(words.strip()) > 3)


def words(text: str) -> list[str]:
    """The words of an answer that is text, in lower case; [] where it is mathematics, perhaps with a unit."""
    wrapped = re.findall(r"\\text\{([^{}]*)\}", text)
    bare = unwrapped(text)
    core = re.sub(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+", " ", split_unit(text)[0])
    runs = [run for run in re.findall(r"[A-Za-z]{3,}", core) if run not in _FUNCTIONS]
    told = (
        any(re.search(r"[A-Za-z]{2}", part) for part in wrapped)
        and "\\text" in split_unit(text)[0]
    )
    long = any(len(run) > 4 or (len(run) == 4 and not run.isupper()) for run in runs)
    if told or long or bare.lower() in ("yes", "no"):
        return re.findall(r"\w+", bare.lower())
    return []


def unwrapped(text: str) -> str:
    return re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).strip()


def _braced(text: str) -> str:
    """Braces where TeX lets them be left out: `\\frac12`, `\\frac \\pi 4`, `\\sqrt 2`; `\\sqrt10` is read as people mean it."""
    token = r"\s*(\\[A-Za-z]+|\d|[A-Za-z])"
    text = re.sub(r"\\sqrt\s*(\d+|[A-Za-z])", r"\\sqrt{\1}", text)
    text = re.sub(rf"\\frac{token}{token}", r"\\frac{\1}{\2}", text)
    text = re.sub(rf"\\frac{token}(?=\s*\{{)", r"\\frac{\1}", text)
    return re.sub(rf"(\\frac\s*\{{[^{{}}]*\}}){token}", r"\1{\2}", text)
