"""Answers that are words or the letter of a choice, and words that change what a number says."""

from __future__ import annotations

import re

from rewards.math_prose import FUNCTIONS
from rewards.math_spelling import tidy, unwrapped
from rewards.math_units import measure, split_unit

_CHOICE = re.compile(
    r"(?:(?i:option|choice|answer)[ :]*)?"
    r"(?:\(([A-Ja-j])\)|([A-J])(?=[).:]|$|,?\s+(?:because|since|as|for|due)\b))[).:]*(.*)",
    re.DOTALL,
)
_LETTER = re.compile(r"(?:(?:[Oo]ption|[Cc]hoice)\s+)?\(?([A-Ja-j])[.:)]?")
_QUALIFIER = re.compile(
    r"(?<![\\\w])(?:not|no|more|less|fewer|greater|smaller|least|most|than|before|after|about"
    r"|between|except|unless|or|[ap]m|(?:in)?finite\w*)\b"
    r"|(?<=\d) (?:squared|cubed|factorial|times|plus|minus|over)\b|(?:\\l?c?dots|\.{3})\s*$"
)
_SEVERAL = re.compile(r"\d\s*[A-Za-z]{2,},?\s+\d")
_WORD = re.compile(r"[A-Za-z]{2,}")
_OPENING = re.compile(
    r"^(?:(?:it|this|that|(?:the )\w+|they) (?:is|are) )?(?:an?|the)?\s*(?=\w)"
)
_NO_SOLUTION = re.compile(r"(?:there (?:is|are) )?no (?:real )?(?:solutions?|roots?)|empty set")


def choice(text: str) -> str:
    """The letter of a multiple-choice answer, `B` of `(B) 12 cm`; "" if it is none or names a
    second one.
    """
    return split_choice(text)[0]


def split_choice(text: str) -> tuple[str, str]:
    """The letter of a choice and the text behind it, `B` and `12 cm`; twice "" if there is none."""
    bare = unwrapped(text)
    if only := _LETTER.fullmatch(bare):
        return only[1].upper(), ""
    match = _CHOICE.fullmatch(bare)
    if match is None:
        return "", ""
    rest = re.split(r"\b(?:because|since)\b", match[3])[0]
    if re.search(r"\([A-J]\)|\b[A-J]\b(?=[).:,]|$)", rest):
        return "", ""
    return (match[1] or match[2]).upper(), rest.strip()


def is_letter(text: str) -> bool:
    """Whether a reference answer is nothing but the letter of a choice."""
    return re.fullmatch(r"\(?[A-J][.:)]?|\([a-j]\)", unwrapped(text)) is not None


def words(text: str) -> list[str]:
    """The words of an answer that is text, in lower case and without what opens a sentence; []
    where it is mathematics, perhaps with a unit.
    """
    wrapped = re.findall(r"\\text\{([^{}]*)\}", text)
    bare = unwrapped(text)
    value, _ = split_unit(text)
    core = re.sub(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+", " ", value)
    runs = [run for run in re.findall(r"[A-Za-z]{3,}", core) if run not in FUNCTIONS]
    told = any(re.search(r"[A-Za-z]{2}", part) for part in wrapped) and "\\text" in value
    long = any(len(run) > 4 or (len(run) == 4 and not run.isupper()) for run in runs)
    if told or long or bare.lower() in ("yes", "no"):
        return re.findall(r"\w+", _OPENING.sub("", bare.lower(), count=1))
    return []


def same_text(left: str, right: str) -> bool:
    """Whether two tidy answers are the same text; case counts in mathematics only."""
    left, right = unwrapped(left), unwrapped(right)
    if left == right or _SEVERAL.search(left) and _measured(left) == _measured(right):
        return True
    runs = re.findall(r"[A-Za-z]{3,}", left)
    prose = any(not run.isupper() and run not in FUNCTIONS for run in runs)
    return prose and left.casefold() == right.casefold() and not re.search(r"[\\^_=+]", left)


def _measured(text: str) -> str:
    """`5 feet 6 inches` and `5 ft 6 in` with one name for each measure."""
    return _WORD.sub(lambda match: measure(match[0]) or match[0], text)


def has_words_and_number(reference: str) -> bool:
    """Whether an answer is prose with a number, `June 3`: of a completion that says it without a
    box only the number would be read.
    """
    bare = unwrapped(tidy(reference))
    return bool(re.search(r"[A-Za-z]{3,}", bare) and re.search(r"\d", bare))


def qualified_alike(reference: str, candidate: str) -> bool:
    """Whether both have the same words that make another statement of a value, `not` or `less`. A
    candidate may add morning or afternoon to a time; names of points are no such words.
    """
    left, right = _qualifiers(reference), _qualifiers(candidate)
    if not {"am", "pm"} & set(left):
        right = [word for word in right if word not in ("am", "pm")]
    return left == right


def _qualifiers(text: str) -> list[str]:
    bare = re.sub(r"(?<![A-Za-z])[A-Z]{2,}(?![a-z])", " ", unwrapped(text))
    return _QUALIFIER.findall(bare.lower())


def says_no_solution(text: str) -> bool:
    """Whether the answer is that there is no solution, in words or as the empty set."""
    bare = unwrapped(text).rstrip(".")
    if re.fullmatch(r"\\emptyset|\\\{\s*\\\}", bare.replace(" ", "")):
        return True
    return _NO_SOLUTION.fullmatch(bare.lower()) is not None
