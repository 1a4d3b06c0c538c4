"""Numbers on the command line, within bounds, for `type=` of an argument; and `key=value` parameters."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from rlcore.errors import RecipeError
from rlcore.recipe.yaml_text import read_yaml


def count(text: str) -> int:
    """A whole number from 1 to a billion."""
    return _whole(text, least=1)


def size(text: str) -> int:
    """A whole number from 0 to a billion."""
    return _whole(text, least=0)


def seconds(text: str) -> float:
    """A time above 0, in seconds."""
    return _above_0(text, most=10_000_000, what="time", unit="seconds")


def gibibytes(text: str) -> float:
    """A size above 0, in GiB."""
    return _above_0(text, most=1_000_000, what="size", unit="GiB")


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if 0 <= value <= 1:
        return value
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number from 0 to 1")


def port(text: str) -> int:
    """A port to listen at."""
    return _whole(text, least=1, most=65_535)


def free_or_port(text: str) -> int:
    """A port to listen at, or 0 for any that is free."""
    return _whole(text, least=0, most=65_535)


def _above_0(text: str, *, most: int, what: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if 0 < value <= most:
        return value
    raise argparse.ArgumentTypeError(
        f"{text[:40]!r} is no {what} above 0 and up to {most:,} {unit}"
    )


def _whole(text: str, least: int, most: int = 10**9) -> int:
    if text.isdecimal() and len(text) < 11 and least <= int(text) <= most:
        return int(text)
    problem = f"{text[:40]!r} is no whole number from {least} to {most:,}"
    raise argparse.ArgumentTypeError(problem)


def parameters(items: Sequence[str]) -> dict[str, Any]:
    """`key=value` words, with values as YAML. Raises `RecipeError`."""
    pairs = map(pair, items)
    return {key: read_yaml(value, f"the parameter {key}") for key, value in pairs}


def pair(item: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals:
        raise RecipeError(f"the parameter {item!r} has no '='; write key=value")
    return key, value
