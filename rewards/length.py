"""Rewards on the number of tokens of a completion; the end-of-sequence token counts.

They do not look at correctness: give the verifier the larger weight, or use the aggregate
`by_correctness` (rlcore/scoring/aggregate.py). They give a group of equal correctness different
rewards, so a filter on zero variance keeps groups that nobody solved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from rlcore import reward


@reward
def length(
    completion: str,
    *,
    completion_ids: Sequence[int],
    max_tokens: int = 512,
    shape: Literal["band", "triangle"] = "band",
    **columns: Any,
) -> float:
    """1 at a budget of `max_tokens`, falling linearly to 0 at twice that.

    Below the budget a "band" is 1 and a "triangle" rises from 0. With L = tokens / budget: band
    min(1, max(0, 2 - L)), triangle max(0, 1 - |L - 1|). Source: *Train Long, Think Short* (arXiv
    2508.08940), where the budget falls during training: 256, 179, 125, 87. It may be a column of
    the task called `max_tokens`. A triangle pays for padding: a wrong completion of exactly the
    budget gets 1.

    >>> sizes = [0, 50, 100, 150, 200, 300]
    >>> [length("", completion_ids=[0] * n, max_tokens=100) for n in sizes]
    [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    >>> [length("", completion_ids=[0] * n, max_tokens=100, shape="triangle") for n in sizes]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    if shape not in ("band", "triangle"):
        raise ValueError(f"shape is {shape!r}; choose band or triangle")
    over = len(completion_ids) / max_tokens
    return (
        min(1.0, max(0.0, 2.0 - over)) if shape == "band" else max(0.0, 1.0 - abs(over - 1.0))
    )


@reward
def word_band(completion: str, *, low: float, high: float, **columns: Any) -> float:
    """1 for `low` to `high` words, below max(0, 2 words / low - 1), above max(0, 3 - 2 words / high).

    Source: Self-Lengthen (arXiv 2410.23933), whose band is about 20% around the length that is asked for; for "at least a" it is
    [a, 1.5 a], for "at most b" [0.5 b, b]. Both may be columns of the task.

    >>> [word_band("word " * n, low=800, high=1200) for n in (400, 600, 800, 1200, 1500, 1800)]
    [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    """
    if not 0 < low <= high:
        raise ValueError(f"low is {low} and high {high}: they must be above 0 and in order")
    words = len(completion.split())
    below, above = 2 * words / low - 1, 3 - 2 * words / high
    return max(0.0, min(1.0, below, above))


@reward
def overlong(
    completion: str,
    *,
    completion_ids: Sequence[int],
    max_tokens: int,
    cache: int,
    **columns: Any,
) -> float:
    """0 up to `max_tokens - cache` tokens, falling linearly to -1 at `max_tokens`, and -1 beyond.

    Source: soft overlong punishment of DAPO (arXiv 2503.14476), there 20,480 and 4,096. It has an
    effect only if `sampling.max_tokens` is larger than `max_tokens - cache`.

    >>> [overlong("text", completion_ids=[0] * n, max_tokens=100, cache=20) for n in (80, 90, 100, 101)]
    [0.0, -0.5, -1.0, -1.0]
    """
    if not 0 < cache <= max_tokens:
        raise ValueError(
            f"cache is {cache}, but must be above 0 and at most max_tokens ({max_tokens})"
        )
    return max(-1.0, min(0.0, (max_tokens - cache - len(completion_ids)) / cache))


def relative_length(completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    """0.5 for the shortest completion of its group, -0.5 for the longest, linear in between.

    0 for all if all are equally long. Shortest and longest are over the whole group, right or
    wrong. Source: the length penalty of Kimi k1.5 (arXiv 2501.12599), which pays a wrong completion
    at most 0: `aggregate: {use: by_correctness, right: math, only: relative_length}`.

    >>> relative_length([[0] * 100, [0] * 200, [0] * 300])
    [0.5, 0.0, -0.5]
    """
    lengths = [len(ids) for ids in completion_ids]
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(lengths)
    return [0.5 - (n - shortest) / (longest - shortest) for n in lengths]
