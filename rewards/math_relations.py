"""Inequalities in one variable, joined by "and" or "or", as the interval or union they stand for."""

from __future__ import annotations

import re

_JOINT = re.compile(
    r"\s*,?\s*(?:\\text\{\s*,?\s*(and|or)\s*\}|(?<![A-Za-z\\])(and|or)(?![A-Za-z])"
    r"|\\(lor|land|vee|wedge)(?![a-z])|(\\cup)(?![a-z]))\s*"
)
_SIDE = r"([^<>=,]+?)"
_SIGN = r"\s*(<|>|\\le(?![a-z])|\\ge(?![a-z]))\s*"
_NAME = r"\s*([A-Za-z]|\\[a-z]+)\s*"
_BOUND = re.compile(rf"{_NAME}{_SIGN}{_SIDE}\s*")
_TURNED = re.compile(rf"{_SIDE}{_SIGN}{_NAME}")
_CHAIN = re.compile(rf"{_SIDE}{_SIGN}{_NAME}{_SIGN}{_SIDE}\s*")
_FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}

Bounds = tuple[str, str, bool, str, bool]
"""Variable; lower bound and whether it belongs to the interval; the upper one likewise."""


def as_interval(text: str) -> str | None:
    """`x<0 or x>2` as `x\\in (-\\infty, 0)\\cup (2, \\infty)`; None where no inequalities are joined.

    "and" joins a lower and an upper bound only. A comma says neither "and" nor "or": it stays.
    """
    parts = _JOINT.split(text)
    pieces = [_bounds(part) for part in parts[::5]]
    words = [next(filter(None, parts[i : i + 4])) for i in range(1, len(parts), 5)]
    if not words or None in pieces or len({piece[0] for piece in pieces if piece}) != 1:
        return None
    bounds = [piece for piece in pieces if piece]
    if all(word in ("and", "land", "wedge") for word in words):
        both = _both(bounds)
        return both and _written([both])
    if any(word in ("and", "land", "wedge") for word in words):
        return None
    return _written(bounds)


def bounds(text: str) -> Bounds | None:
    """What an inequality between a variable and numbers says of it; None for all else."""
    piece = _bounds(text) if re.search(r"[<>]|\\[lg]e(?![a-z])", text) else None
    letters = piece and re.search(r"(?<![\\A-Za-z])[A-Za-z]", piece[1] + " " + piece[3])
    return None if letters else piece


def interval(piece: Bounds) -> str:
    """The interval of a variable's bounds, `[1, 2)`."""
    return _written([piece]).partition("\\in ")[2]


def _bounds(part: str) -> Bounds | None:
    """An inequality as the bounds it gives its variable."""
    if match := _CHAIN.fullmatch(part):
        low, first, name, second, high = match.groups()
        if first in (">", "\\ge"):
            low, first, second, high = high, _FLIP[second], _FLIP[first], low
        if second in (">", "\\ge") or first in (">", "\\ge"):
            return None
        return name, low.strip(), first == "\\le", high.strip(), second == "\\le"
    if match := _BOUND.fullmatch(part):
        name, sign, side = match.groups()
    elif match := _TURNED.fullmatch(part):
        side, sign, name = match.groups()
        sign = _FLIP[sign]
    else:
        return None
    if sign in ("<", "\\le"):
        return name, r"-\infty", False, side.strip(), sign == "\\le"
    return name, side.strip(), sign == "\\ge", r"\infty", False


def _both(bounds: list[Bounds]) -> Bounds | None:
    """What a lower and an upper bound leave."""
    lower = [piece for piece in bounds if piece[3] == r"\infty"]
    upper = [piece for piece in bounds if piece[1] == r"-\infty"]
    if len(bounds) != 2 or len(lower) != 1 or len(upper) != 1:
        return None
    return *lower[0][:3], *upper[0][3:]


def _written(bounds: list[Bounds]) -> str:
    pieces = [
        f"{'[' if closed else '('}{low}, {high}{']' if shut else ')'}"
        for _, low, closed, high, shut in bounds
    ]
    return rf"{bounds[0][0]}\in " + r"\cup ".join(pieces)
