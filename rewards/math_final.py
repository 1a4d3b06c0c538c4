"""Which part of a text is its final answer. The rules, and how the modes use them, are stated in `rewards.math`.

Whatever the rule, an answer that gives several values is the list of them, `1, 2`: "the answer is 3 or 4", `\\boxed{3}` or
`\\boxed{4}`. A list equals a reference list and no single value, so naming more values never helps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

from rewards.math_letters import tex_spelling
from rewards.math_prose import DOUBTED, FUNCTIONS, in_symbols, is_changed
from rewards.math_spelling import SCALES
from rewards.math_units import measure

Mode = Literal["first", "strict", "flex"]

LONGEST = 1000
"""Characters of a final answer that is compared by value; a longer one is compared as text."""
SHORT = 200
"""Characters of a text that may be an answer as a whole."""
UNREAD = "?"
"""The final answer of a text that states none that can be read: it equals nothing."""
TAIL = 5000
"""Characters at the end of a text in which a last value is looked for."""
_BOX = re.compile(r"\\f?boxed\s*(?:\{|(?=[^\s{])|\s(?=[^\s{]))")
_SAYS = re.compile(
    r"(?:answer|correct (?:option|choice))\**(?:\s+to\b[^.\n]{0,60}?)?\s*(?:is|:|=)\s*:?"
    r"|(?:答案|答え|정답|답)\s*(?:是|为|為|は|은|:)\s*:?",
    re.IGNORECASE,
)
_CURRENCY = r"(?:\\?\$|[€£¥₹₩₽₫₱₪₺₴₦฿₿])"
_NUMBER = re.compile(
    rf"(?<![A-Za-z0-9_.,])[-+]?\s?{_CURRENCY}?\s?"
    r"(?:\d{1,3}(?:(?:,|\{,\}|,\\!| )\d{3})+(?!\d)|\d+)(?:\.\d+|/\d+|(?::\d+)+)?"
    r"(?:\s?(?:\\times|\\cdot|[x*])\s?10\s?\^\s?\{?-?\d+\}?)?(?:\s?\\?%)?"
    r"|(?<![A-Za-z0-9_.,])[-+]?\.\d+"
)
_MATH = re.compile(
    r"\$\$(?P<display>.{1,1000}?)\$\$|\\\((?P<round>.{1,1000}?)\\\)|\\\[(?P<square>.{1,1000}?)\\\]"
    r"|(?<![\\\d])\$(?!\s)(?P<inline>(?:\\.|[^$\\\n]){1,1000}?)(?<!\s)\$(?!\d)"
    r"|(?<![\\\d])\$\s(?P<spaced>(?:\\.|[^$\\\n]){1,1000}?)\s\$(?!\d)",
    re.DOTALL,
)
_JOINT = (
    r"[\s$*]|[,;|/]|\.\s|\\text\s*\{\s*(?:and|or)\s*\}|\b(?:and|or)\b|\\\(|\\\)|\\\[|\\\]"
    r"|\\(?:q?quad|lor|vee|cup)(?![a-z])|\\[,;: ]|\\\\"
)
_SEPARATOR = re.compile(rf"(?:{_JOINT})*")
_BESIDE = rf"{_JOINT}|\\?&|\+|\b(?:also|plus|versus|vs)\b"
_LABELLED = re.compile(
    rf"(?:{_BESIDE})*(?:(?:\d{{1,2}}[.)]|[-•*]|\(?[a-z]\))\s+|(?i:option|choice|answer|solution|candidate|possibility)?\s*\(?[A-Z0-9]\)?\s?[:.)]\s*|(?i:case|if|when|for|else|otherwise)\b[^.\n]{{0,30}}?[:,]\s*)?"
    rf"(?:{_BESIDE})*(?:[A-Za-z]\w{{0,3}}\s*=)?(?:{_BESIDE})*"
    rf"|[^.\n]{{0,40}}\b(?:and|or)\b(?:{_BESIDE}|[}}])*(?:[A-Za-z]\w{{0,3}}\s*=)?(?:{_BESIDE})*"
)
"""What stands between boxes that answer together: a bullet, the name of a case or of a variable."""
_HEDGE = re.compile(
    r"(?:\W+\w+){0,3}?\W+(?:or|maybe|perhaps|possibly|alternatively|could (?:also )?be|may (?:also )?be"
    r"|might (?:also )?be|another (?:answer|solution|option|possibility|value))\b(?:\W+\w+){0,3}?\W+",
    re.IGNORECASE,
)
_UNIT = re.compile(
    r"\s?(?:(?:square|cubic|sq\.?)\s)?([A-Za-z]+)(?:/[A-Za-z]+)?(?![\w'])(?!\s*[-+*/=(])(?:\^\{?\d\}?|\s(?:squared|cubed)\b)?"
)
"""What may belong to the number before it, if the word is a measure or a scale."""
_REMARK = re.compile(r"(?<=\s)\([^()$\\]*[A-Za-z]{3,}[^()$\\]*\)")
_PERCENT = re.compile(r"\s*\$?\s*(\\?%|percent\b)")
"""Behind a box."""
_CHOICE = re.compile(r"\**\(?[A-J][).:]")
_SHORT_WORDS = frozenset(
    "a am an as at be by do go he hi if in is it me my no of oh on so to up us we "
    "cm km mm kg mg ml ft lb oz hr pm mi yd sq".split()
)


def final_answers(text: str, *, mode: Mode = "first", ended: bool = True) -> list[str]:
    """The answers that count: at most one, but in mode "flex" one of each rule. `ended`: the model ended the text itself."""
    text = tex_spelling(text)
    box = boxed(text)
    if not ended:
        return [box] if box else []
    marks = [found for found in (after_hashes(text), after_says(text)) if found]
    if mode == "flex":
        candidates = [*([box] if box else []), *marks]
        return candidates or [found for found in (whole(text), last_value(text)) if found]
    if box is not None:
        return [box] if box else []
    if marks or mode == "strict":
        return marks[:1]
    return [found for found in (whole(text) or last_value(text),) if found]


def final_answer(text: str, *, mode: Mode = "first", ended: bool = True) -> str:
    """The first of `final_answers`, "" if there is none."""
    return next(iter(final_answers(text, mode=mode, ended=ended)), "")


@lru_cache(maxsize=65536)
def reference_text(answer: str) -> str:
    """The final answer in a reference answer, which may be a whole worked solution; else the text itself."""
    answer = tex_spelling(answer)
    final = boxed(answer) or after_hashes(answer) or after_says(answer)
    return answer.strip() if final in ("", None, UNREAD) else final


def stated_texts(text: str) -> list[str]:
    """What may be an answer as a whole: a short text, and what follows "answer is" or `####`."""
    marked = [match.end() for match in list(_SAYS.finditer(text))[-1:]]
    marked += [text.rfind("####") + 4] if "####" in text else []
    lines = [text[start : start + SHORT].lstrip(" *:").partition("\n")[0] for start in marked]
    texts = [text, *lines] if len(text) <= SHORT else lines
    return [line.strip().rstrip("*").rstrip(".").strip("$").strip() for line in texts]


def boxed(text: str) -> str | None:
    """Content of the last box that has any, or of the last few where only `or`, a comma or the like stands between them.

    None where the text has no box, "" where its boxes are empty or never close.
    """
    found: list[str] = []
    after = len(text)
    starts = list(_BOX.finditer(text))
    for match in reversed(starts[-8:]):
        content, end = _box_content(text, match)
        # a box may stand inside another one
        if not content or end > after:
            continue
        between = text[end:after]
        if found and not _joined(between) and not _LABELLED.fullmatch(between[:80]):
            break
        if percent := _PERCENT.match(text, end):
            content += percent[1]
        found.insert(0, content)
        after = match.start()
    return _as_list(found) if starts else None


def after_hashes(text: str) -> str:
    """What follows the last `####`, to the end of its line."""
    _, marker, rest = text.rpartition("####")
    line = rest.lstrip().partition("\n")[0].strip()
    if len(line) > LONGEST:
        return line
    return _stated(rest[: LONGEST * 2]) if marker else ""


def after_says(text: str) -> str:
    """What follows the last "answer is" that names a value, to the end of its line; if none does, what follows the last one."""
    matches = list(_SAYS.finditer(text))[-4:]
    sure = [m for m in matches if not _is_doubted(text, m.start())]
    if matches and not sure:
        return UNREAD
    said = [_stated(text[match.end() : match.end() + LONGEST * 2]) for match in sure]
    valued = [v for v in said if v == UNREAD or re.search(r"\d|\\|^\(?[A-Z]\)?$", v)]
    return (valued or said or [""])[-1]


def whole(text: str) -> str:
    """The text itself where it is one short line of symbols."""
    line = text.strip() if len(text) <= SHORT else ""
    if (
        "\n" in line
        or not line
        or _is_prose(_UNIT.sub(" ", line) if _CHOICE.match(line) else line)
    ):
        return ""
    number = _NUMBER.fullmatch(line)
    return (
        line
        if number or _CHOICE.match(line) or re.search(r"[A-Za-z(\[^_:,]|\s\d", line)
        else ""
    )


def last_value(text: str) -> str:
    """The last formula between dollars or brackets, or the last number, whichever ends later; without either, a short text."""
    tail = in_symbols(text[-TAIL:])
    # a remark in brackets, "(13 would be too many)", counts where nothing else does
    values = _values(_REMARK.sub(lambda match: " " * len(match[0]), tail)) or _values(tail)
    if not values:
        letters = set(re.findall(r"(?<!\S)\(([A-J])\)", tail))
        if len(letters) == 1:
            return letters.pop()
        return text.strip() if len(text) <= SHORT else ""
    start, end, last = values[-1]
    if is_changed(tail, start, end, marked=False):
        return ""
    found = [last]
    for before_start, before_end, value in reversed(values[:-1]):
        between = tail[before_end:start]
        said = re.search(r"\b(?:and|or)\b", between)
        if not (
            _joined(between)
            and (said or _HEDGE.fullmatch(between) or not tail[end:].strip(" .!\n*$"))
        ):
            break
        found.insert(0, value)
        start = before_start
    return _as_list(found)


def _stated(rest: str) -> str:
    """The value at the start of `rest`: a formula, a line of symbols or words, or of prose the first number."""
    rest = in_symbols(re.sub(r"^\$\s+([^$\n]*?)\s*\$", r"$\1$", rest.lstrip(" \t\n*:")))
    formula = _MATH.match(rest)
    line = rest.partition("\n")[0].strip()
    if not formula and (_CHOICE.match(line) or not _is_prose(line) or not _NUMBER.search(line)):
        return (
            _as_list(re.split(r"\s*\$\s*", line.strip("$")))
            if line.count("$") == 2
            else line.rstrip("*").rstrip(". ")
        )
    line = line if not formula else rest
    values = _values(line)
    if not values:
        return line.rstrip(".")
    found, end = [values[0][2]], values[0][1]
    for value in values[1:]:
        if not _joined(line[end : value[0]]):
            break
        found.append(value[2])
        end = value[1]
    if is_changed(line, values[0][0], end):
        return UNREAD
    return _as_list(found)


def _is_doubted(text: str, start: int) -> bool:
    """Whether what says "answer is" at `start` is denied, asked or supposed."""
    sentence = re.split(r"[.!?;\n]", text[max(0, start - 80) : start])[-1]
    return bool(DOUBTED.search(sentence))


def _values(text: str) -> list[tuple[int, int, str]]:
    """Start, end and content of the formulas and numbers of a text, in order; a number inside LaTeX stands for its whole run."""
    formulas = [m for m in _MATH.finditer(text) if not _is_prose(_inside(m))]
    found = [(m.start(), m.end(), _inside(m)) for m in formulas]
    covered = 0
    for number in _NUMBER.finditer(text):
        inside = any(m.start() < number.end() and number.start() < m.end() for m in formulas)
        if inside or number.start() < covered:
            continue
        start, end, value = _latex_run(text, number.start(), number.end())
        unit = _unit_end(text, end) if end == number.end() else end
        covered = max(covered, unit)
        found.append((start, unit, value + text[end:unit]))
    numbers = [
        value
        for value in found
        if re.search(r"\d|\\(?:pi|infty|emptyset|varnothing)", value[2])
    ]
    return sorted(set(numbers or found))


def _unit_end(text: str, end: int) -> int:
    """Where the unit behind a number ends; the number's own end if it has none."""
    match = _UNIT.match(text, end)
    if match is None:
        return end
    word = match[1]
    known = word.lower() in SCALES or (measure(word) and word != "in")
    return match.end() if known and (len(word) > 1 or word in "mgLl") else end


def _latex_run(text: str, start: int, end: int) -> tuple[int, int, str]:
    """A number's place, widened to the run without spaces around it where that is LaTeX."""
    left = max(text.rfind(space, 0, start) for space in " \n\t") + 1
    right = min(
        (p for space in " \n\t" if (p := text.find(space, end)) >= 0), default=len(text)
    )
    run = text[left:right].rstrip(".,;:!?*$)").lstrip("$(*")
    return (
        (left, right, run)
        if "\\" in run.replace("\\$", "").replace("\\%", "")
        else (start, end, text[start:end])
    )


def _box_content(text: str, match: re.Match[str]) -> tuple[str, int]:
    """Content and end of a box; content is "" where it is empty or does not close."""
    start = match.end()
    if text[start - 1] != "{":  # \boxed 5
        bare = re.compile(r"[^\s$,;{}]*").match(text, start)
        assert bare is not None
        return bare[0].rstrip("."), bare.end()
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.start()].strip(), brace.end()
    return "", start


def _joined(between: str) -> bool:
    """Whether two values with this text between them are given together."""
    return len(between) <= 80 and bool(
        _SEPARATOR.fullmatch(between) or _HEDGE.fullmatch(between)
    )


def _as_list(values: Iterable[str]) -> str:
    distinct = dict.fromkeys(value.strip() for value in values)
    return ", ".join(value for value in distinct if value)


def _inside(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip().rstrip(".,")


def _is_prose(line: str) -> bool:
    """Whether there are words, rather than symbols with at most units, names of points and products of letters among them."""
    plain = re.sub(
        r"\\begin\s*\{array\}\s*\{[^{}]*\}|\\(?:text\w*|mbox|mathrm|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+|\b(?:or|and)\b|(?<=\d) to (?=\d)",
        " ",
        line,
    )
    operators = bool(re.search(r"[-+*/^=]", plain))
    return any(
        _is_word(match, plain, operators) for match in re.finditer(r"[^\W\d_]{2,}", plain)
    )


def _is_word(match: re.Match[str], text: str, operators: bool) -> bool:
    run = match[0]
    if (run.isupper() and len(run) <= 4) or run in FUNCTIONS:
        return False
    glued = match.start() > 0 and text[match.start() - 1].isdigit()
    product = (
        operators and run not in _SHORT_WORDS and (len(run) == 2 or (len(run) == 3 and glued))
    )
    return not product
