"""Numbers on the command line, within bounds, for `type=` of an argument."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """A whole number from 1 to a billion."""
    return _whole(text, least=1)


def size(text: str) -> int:
    """A whole number from 0 to a billion."""
    return _whole(text, least=0)


def seconds(text: str) -> float:
    """A time above 0, in seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if 0 < value <= 1e7:
        return value
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no time from 0 to 10,000,000 seconds")


def gibibytes(text: str) -> float:
    """A size above 0, in GiB."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if 0 < value <= 1e6:
        return value
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is no size from 0 to 1,000,000 GiB")


def _whole(text: str, least: int) -> int:
    if text.isdecimal() and len(text) < 11 and least <= int(text) <= 10**9:
        return int(text)
    problem = f"{text[:40]!r} is no whole number from {least} to 1,000,000,000"
    raise argparse.ArgumentTypeError(problem)
