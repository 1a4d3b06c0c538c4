"""The reward of the benchmarks: cheap, and different for the answers to a prompt."""

from __future__ import annotations

from typing import Any

from rlcore import reward


def digit_share(text: str) -> float:
    """Share of the characters that are digits."""
    return sum(letter.isdigit() for letter in text) / max(1, len(text))


@reward
def digits(completion: str, **columns: Any) -> float:
    """Share of the answer's characters that are digits."""
    return digit_share(completion)
