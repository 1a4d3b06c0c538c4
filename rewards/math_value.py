"""Whether two final answers are the same value. The conventions are stated in `rewards.math`.

Plain numbers are compared exactly, words and choices as text; the rest is left to math-verify, after some of what it reads
too kindly (units, relations, tiny numbers, TeX without braces) has been checked or put right here.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from math_verify.utils import timeout
from sympy import Basic, FiniteSet, Integer, Tuple, simplify

from rewards.math_spelling import choice, plain_number, split_unit, tidy, unwrapped, words

TIMEOUT_S = 2
"""For each parse and each comparison, by math-verify's own alarm: it needs the main thread, which a worker gives it."""
CLOSE = Fraction(1, 100_000)
"""Largest relative difference of a decimal and the value it stands for."""
_CONFIGS = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())

_MONEY = re.compile(r"\s*[-+]?\s*\\?\$\s*[-+]?\d[\d,]*(?:\.\d+)?\s*")
_ONLY_CHOICE = re.compile(r"\(?[A-J]\)?[.:)]?")
_RELATION = re.compile(
    r"[<>|?]|\\(?:[lg]eq?|[lg]eqslant|ne|neq|in|notin|to|rightarrow|Rightarrow|implies|iff|mid|not|equiv)(?![a-z])"
)
_QUALIFIER = re.compile(
    r"(?<!\\)\b(?:not|no|more|less|fewer|greater|smaller|least|most|than|before|after|about|between|except|or|[ap]m|(?:in)?finite\w*)\b"
)


def same_value(reference: str, candidate: str) -> bool:
    """Whether two final answers are equal. Raises math-verify's `TimeoutException`."""
    left, right = tidy(reference), tidy(candidate)
    if not re.search(r"[^\W_]|\\[a-z]", right):
        return False
    if left == right:
        return True
    if _ONLY_CHOICE.fullmatch(unwrapped(left)):
        return choice(left) == choice(right)
    if words(left) or _QUALIFIER.findall(left.lower()) != _QUALIFIER.findall(right.lower()):
        return words(left) == words(right) != []
    # beside a unit a letter is one: `5 m` where the other is `5 cm`
    letters = any(
        split_unit(side)[1] or _MONEY.fullmatch(raw)
        for side, raw in ((left, reference), (right, candidate))
    )
    (left, left_unit), (right, right_unit) = (
        split_unit(left, letters=letters),
        split_unit(right, letters=letters),
    )
    left_unit, right_unit = (
        _money(reference, left_unit, right_unit),
        _money(candidate, right_unit, left_unit),
    )
    if (
        left_unit
        and right_unit
        and left_unit != right_unit
        and {left_unit[0], right_unit[0]} != {"", "%"}
    ):
        return False
    percent = (left_unit == ("%", 1)) - (right_unit == ("%", 1))
    numbers = plain_number(left), plain_number(right)
    if numbers[0] is not None and numbers[1] is not None:
        share = percent == -1 and abs(numbers[0]) < 1
        value = numbers[1] / 100 if share else numbers[1]
        return numbers[0] == value or (
            ("/" in left + right or "frac" in left + right) and _rounded(numbers[0], value)
        )
    if _differ_in_writing(left, right, numbers[0], numbers[1]):
        return False
    listed = _same_elements(left, right)
    return _equal(left, right) if listed is None else listed


def _money(
    raw: str, unit: tuple[str, int] | None, other: tuple[str, int] | None
) -> tuple[str, int] | None:
    """The unit of an answer: dollars where it has only their sign and the other has a known unit."""
    return (
        ("dollar", 1) if unit is None and other and other[0] and _MONEY.fullmatch(raw) else unit
    )


def _same_elements(reference: str, candidate: str) -> bool | None:
    """Whether two lists, sets, tuples or intervals hold equal elements, in order where it matters; None for all else."""
    left, right = _elements(reference), _elements(candidate)
    if left is None or right is None or max(len(left[1]), len(right[1])) > 20:
        return None
    (left_kind, references), (right_kind, others) = left, right
    if left_kind == right_kind or (left_kind == "()" and not right_kind):
        if len(references) != len(others):
            return False
        if left_kind:
            return all(same_value(a, b) for a, b in zip(references, others, strict=True))
        for one in references:
            match = next((i for i, other in enumerate(others) if same_value(one, other)), None)
            if match is None:
                return False
            others = others[:match] + others[match + 1 :]
        return True
    intervals = len(references) == len(others) == 2 and left_kind and right_kind
    return False if intervals else None


def _elements(text: str) -> tuple[str, list[str]] | None:
    """The brackets around a list of two elements or more, and these; brackets of sets are "". None where there is no list."""
    text = re.sub(r"^[A-Za-z]\s*\\in\s*(?=[(\[])", "", text)
    if "\\pm" in text or "\\mp" in text or "\\begin" in text:
        return None
    parts, depth, start, closed_early = [], 0, 0, False
    inner = text[2:-2] if text.startswith("\\{") and text.endswith("\\}") else text
    bracketed = inner is text and len(text) > 2 and text[0] in "([" and text[-1] in ")]"
    inner = text[1:-1] if bracketed else inner
    for place, letter in enumerate(inner):
        depth += (letter in "([{") - (letter in ")]}")
        closed_early |= depth < 0
        if letter == "," and depth == 0 and not re.match(r",\d{3}(?!\d)", inner[place:]):
            parts.append(inner[start:place])
            start = place + 1
    parts = [part.strip() for part in [*parts, inner[start:]]]
    if closed_early or depth or len(parts) < 2 or not all(parts):
        return None
    return (text[0] + text[-1] if bracketed else "", parts)


def _rounded(a: Fraction, b: Fraction) -> bool:
    """Whether one is the other to six decimals, and to a relative `CLOSE`."""
    return abs(a - b) <= min(Fraction(1, 1_000_000), CLOSE * max(abs(a), abs(b)))


def _differ_in_writing(
    reference: str, candidate: str, left: Fraction | None, right: Fraction | None
) -> bool:
    """What math-verify does not look at: ratios, bases, relations beside a plain value, unequal sides, powers out of reach."""
    if _spelling(reference) != _spelling(candidate) or (
        left is not None and not re.search(r"\d|\\", candidate)
    ):
        return True
    if right is not None and not re.search(r"\d|\\", reference):
        return True
    related = [bool(_RELATION.search(text)) for text in (reference, candidate)]
    sets = [
        bool(re.search(r"[\[\](]|\\[{}]|\\cup|\\mathbb|\\emptyset", text))
        for text in (reference, candidate)
    ]
    if related[0] != related[1] and not sets[related.index(False)]:
        return True
    sides = [
        value for side in candidate.split("=") if (value := plain_number(side)) is not None
    ]
    return (
        "=" not in reference and len(set(sides)) > 1 and "," not in candidate
    ) or _out_of_reach(candidate)


def _out_of_reach(text: str) -> bool:
    """Numbers too large to compute, which no reference answer is: towers of three powers, exponents of five digits, 9999!, 3!!!."""
    dense = re.sub(r"\s", "", text)
    tower = re.search(r"\d\}?\^\{?\(?\d[^+\-*/=,{}^]*\^\{?\(?\d[^+\-*/=,{}^]*\^", dense)
    large = re.search(r"\^\{?-?\d{5,}|\d{4,}\)?!|!!!|\d\)?!\)?!", dense)
    return bool(tower or large or dense.count("^") > 40 or _depth(dense) > 30)


def _depth(text: str) -> int:
    depth = deepest = 0
    for letter in text:
        depth += (letter in "{([") - (letter in "})]")
        deepest = max(deepest, depth)
    return deepest


def _spelling(text: str) -> tuple[str, ...]:
    dense = re.sub(r"[\s{}]", "", text)
    return tuple(re.findall(r"\d+:\d+", dense) + re.findall(r"\d_(\d+)", dense))


def _equal(reference: str, candidate: str) -> bool:
    left, right = _parsed(reference), _parsed(candidate)
    try:
        if (
            not left
            or not right
            or not timeout(timeout_seconds=TIMEOUT_S)(_sizes_agree)(left[0], right[0])
        ):
            return False
        settings = {
            "timeout_seconds": TIMEOUT_S,
            "raise_on_error": True,
            "allow_set_relation_comp": True,
        }
        return bool(verify(list(left), list(right), **settings))
    except Exception:  # values that sympy cannot compare are not equal
        return False


@lru_cache(maxsize=65536)
def _parsed(text: str) -> tuple[Any, ...]:
    try:
        return tuple(
            parse(
                f"\\boxed{{{text}}}", _CONFIGS, parsing_timeout=TIMEOUT_S, raise_on_error=True
            )
        )
    except Exception:
        return ()


def _sizes_agree(left: Any, right: Any) -> bool:
    """math-verify rounds to six decimals and to 1e-15: numbers must also agree relative to their own size."""
    if (
        isinstance(left, FiniteSet | Tuple)
        and isinstance(right, FiniteSet | Tuple)
        and len(left.args) == len(right.args)
    ):
        pairs = zip(sorted(left.args, key=_place), sorted(right.args, key=_place), strict=True)
        return all(_sizes_agree(a, b) for a, b in pairs)
    if not all(
        isinstance(value, Basic) and getattr(value, "is_number", False)
        for value in (left, right)
    ):
        return True
    a, b = left.evalf(30), right.evalf(30)
    if not (a.is_real and b.is_real) or abs(a - b) <= float(CLOSE) * max(abs(a), abs(b)):
        return True
    return max(abs(a), abs(b)) < 1e-9 and simplify(left - right) == Integer(0)


def _place(value: Any) -> tuple[float, str]:
    try:
        return float(value), str(value)
    except (TypeError, ValueError):
        return 0.0, str(value)
