"""Words around a number that change what it says, as two tables.

`in_symbols` reads those whose value is certain: "minus 5", "5 and a half", "3 fifths", "5 pi". What
stands in `changed_before` and `changed_behind` makes another statement of the number: an operation
still to be done ("half of 12", "5 squared"), a bound ("at least 3"), a denial, a second value. Such
a number is no answer; as a reward each of them would be paid for a wrong value.
"""

from __future__ import annotations

import re

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc log ln exp max min gcd lcm abs mod det arcsin arccos arctan sqrt frac "
    "pi sinh cosh tanh infty".split()
)
"""Names of functions and constants, which are no words of prose."""
_OPEN = r"(?:\\text\{\s*)?"
_SHUT = r"(?:\s*\})?"
_DIVISORS = "third fourth fifth sixth seventh eighth ninth tenth hundredth thousandth"
_SYMBOLS = (
    (r"\b(?:minus|negative)\s+\$\s*(?=[\d.\\(])", "$-"),
    # a sign, and not the operation of "12 minus 5"
    (rf"(?<![\d.)}}$\s])(\s*){_OPEN}(?:minus|negative){_SHUT}\s*(?=\$?\s*[\d.\\(])", r"\1-"),
    (rf"(?<=\d)\s*{_OPEN}and (?:a|one)[- ]half{_SHUT}", ".5"),
    (rf"(?<=\d)\s*{_OPEN}and (?:a|one)[- ]quarter{_SHUT}", ".25"),
    (rf"(?<=\d)\s*{_OPEN}and three[- ]quarters{_SHUT}", ".75"),
    (r"(?<=\d)(?:\^\{?)?\s*\\text\{\s*(?:st|nd|rd|th)\s*\}\}?", ""),
    (r"(?<=\d)\s+pi(?![A-Za-z])", r"\\pi"),
    (rf"(?<=\d)\s*{_OPEN}in base (\d+){_SHUT}", r"_{\1}"),
    *(
        (rf"(?<![\d./])(\d+)[\s-]*{_OPEN}{name}s?\b{_SHUT}", rf"\1/{divisor}")
        for name, divisor in zip(_DIVISORS.split(), [*range(3, 11), 100, 1000], strict=True)
    ),
)
_COMPILED = tuple((re.compile(pattern), replacement) for pattern, replacement in _SYMBOLS)
_TRIGGER = re.compile(
    r"minus|negative|\band\b|\\text\{\s*(?:st|nd|rd|th)|\bpi\b|in base|"
    + "|".join(_DIVISORS.split())
)

_COMPARED = (
    "more|less|fewer|greater|smaller|larger|bigger|higher|lower|older|younger|longer|shorter"
)
_PARTS = "half|third|quarter|fifth|tenth|root|square|cube|double|triple|multiple|factor|power|percent|one|any"
_OPERATIONS = "plus|minus|times|over|by|choose|mod|modulo|to|than|through|versus|vs|and|or"
BEFORE = re.compile(
    r"(?:\b(?:at (?:least|most)|nowhere near|more than|up to|far from|away from|different from|between|from"
    rf"|(?:{_COMPARED}|other|rather) than(?: or equal to)?|anything but|all but|except(?: for)?"
    r"|no longer|not|never|over|under|above|below|beyond|within|unless|until|without|besides"
    rf"|(?:twice|thrice|double|triple|half|quadruple)(?: [a-z]+){{0,3}}?|(?:{_PARTS}|logarithm|sine|cosine)s? of"
    r"|plus or minus|out of|instead of|divided by|multiplied by|squared?|factorial)"
    r"|n't|[A-Za-z]\s?\(|[\d)]\s*[-+*/^=])"
    r"\W*(?:\b(?:or|about|exactly|precisely|the|number|value|equal to|even|just|only)\b\W*)*$",
    re.IGNORECASE,
)
"""What ends before the number it changes."""
_DENIED = re.compile(r"(?:\b(?:not|never|no longer)|n't)\W+$", re.IGNORECASE)
_UNSURE = re.compile(
    r"\b(?:unknown|unclear|unsure|uncertain|undetermined|undefined|impossible|indeterminate)\b",
    re.IGNORECASE,
)
BEHIND = re.compile(
    # to the end of a formula between dollars
    r"\$?(?:(?<=\d)(?!(?:st|nd|rd|th)\b)[A-Za-z]|_"
    r"|\s*(?:[*/^=<>!≤≥×÷]|\\(?:times|cdot|div|pm|le|ge)(?![a-z]))\s*[-\w(\\$]|\s?[-+]\s?[\d(\\$]"
    r"|!(?!\s|$)|\s+(?:squared|cubed|factorial|pi|to the (?:\w+ )?power|per ?cent of)\b"
    r"|(?:st|nd|rd|th)?[\s-]+(?:root|power|digits?)\b"
    r"|\s*,?\s+(?:or|and) (?:\w+ ){0,2}?(?:more|less|fewer|higher|lower|above|below|over|under|up|half)\b"
    rf"|(?:\s+[^\W\d]+){{0,3}}?\s+(?:{_OPERATIONS}|as well as|out of|divided by|multiplied by"
    rf"|(?:{_COMPARED}) than)\s+\W?(?:[A-Za-z]+ ){{0,2}}?\W?\d"
    r"|(?:\s+[^\W\d]+){0,3}?\s+(?:quarters|halves)\b"
    r"|[^.\n]*\b(?:unless|otherwise)\b"
    r"|\W{0,3}\b(?:no,? )?(?:wait|actually|correction|sorry|scratch that|I mean|or rather)\b[^\n]*\d"
    r"|(?:\s+[^\W\d]+){0,3}\s*\?)",
    re.IGNORECASE,
)
"""What begins behind the number it changes."""
DOUBTED = re.compile(
    r"(?:\b(?:if|whether|unless|doubt|not|never|unlikely)|n't)\b(?: +\w+){0,4} *$",
    re.IGNORECASE,
)
"""Before "the answer is": it is not said."""


def in_symbols(text: str) -> str:
    """The text with those words as symbols that have one meaning.

    >>> in_symbols("minus 5 and a half"), in_symbols("12 minus 5"), in_symbols("3 fifths")
    ('-5.5', '12 minus 5', '3/5')
    """
    if not _TRIGGER.search(text):
        return text
    for pattern, replacement in _COMPILED:
        text = pattern.sub(replacement, text)
    return text


def is_changed(text: str, start: int, end: int, *, marked: bool = True) -> bool:
    """Whether the words before or behind a number, `text[start:end]`, make another statement of it.

    marked: it is said to be the answer. Of the last number of a text only a denial counts before
    it: "so we must sell at least 445" is how a solution ends.
    """
    before = text[max(0, start - 200) : start]
    clause = re.split(r"[;\n]|\.\s", before)[-1][-80:]
    if not marked:
        return bool(_DENIED.search(clause) or BEHIND.match(text, end, end + 200))
    unsure = _UNSURE.search(before) or BEFORE.search(clause)
    return bool(unsure or BEHIND.match(text, end, end + 200))
