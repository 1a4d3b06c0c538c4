"""Rewards on how many tokens an answer has; the end-of-sequence token counts.

They are paid whatever the answer says: give correctness the larger weight, or mix with `by_correctness` (rlcore/scoring/aggregate.py). Under
them a group of equal correctness no longer has equal rewards, so a filter on zero variance keeps groups nobody solved.
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
    """1 at a budget of `max_tokens`, falling in a line to 0 at twice that; "band": 1 below it too, "triangle": rising from 0.

    From 0 to 1, with L the tokens over the budget: band min(1, max(0, 2 - L)), triangle max(0, 1 - |L - 1|). Source: *Train Long,
    Think Short* (arXiv 2508.08940), where the budget falls while training: 256, 179, 125, 87. It may be a column of the task
    called `max_tokens`. A triangle pays for padding: a wrong answer of just the budget gets 1.

    >>> [length("text", completion_ids=[0] * n, max_tokens=100) for n in (0, 50, 100, 150, 200, 300)]
    [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    >>> [length("text", completion_ids=[0] * n, max_tokens=100, shape="triangle") for n in (0, 50, 100, 150, 200, 300)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    if shape not in ("band", "triangle"):
        raise ValueError(f"shape is {shape!r}; choose band or triangle")
    over = len(completion_ids) / max_tokens
    return min(1.0, max(0.0, 2.0 - over)) if shape == "band" else max(0.0, 1.0 - abs(over - 1.0))


@reward
def overlong(
    completion: str, *, completion_ids: Sequence[int], max_tokens: int, cache: int, **columns: Any
) -> float:
    """0 up to `max_tokens - cache` tokens, falling in a line to -1 at `max_tokens`, and -1 beyond.

    From -1 to 0. Source: soft overlong punishment of DAPO (arXiv 2503.14476), there 20,480 and 4,096. It shows only where
    `sampling.max_tokens` is larger than `max_tokens - cache`.

    >>> [overlong("text", completion_ids=[0] * n, max_tokens=100, cache=20) for n in (80, 90, 100, 101)]
    [0.0, -0.5, -1.0, -1.0]
    """
    if not 0 < cache <= max_tokens:
        raise ValueError(
            f"cache is {cache}, but must be above 0 and at most max_tokens ({max_tokens})"
        )
    return max(-1.0, min(0.0, (max_tokens - cache - len(completion_ids)) / cache))


def relative_length(completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    """0.5 for the shortest answer of its group, -0.5 for the longest, in a line between; 0 for all where all are equally long.

    From -0.5 to 0.5; shortest and longest are over the whole group, right or wrong. Source: the length penalty of Kimi k1.5
    (arXiv 2501.12599), which pays a wrong answer at most 0: `mix: {use: by_correctness, right: math, only: relative_length}`.
    Batch form.

    >>> relative_length([[0] * 100, [0] * 200, [0] * 300])
    [0.5, 0.0, -0.5]
    """
    lengths = [len(ids) for ids in completion_ids]
    shortest, longest = min(lengths), max(lengths)
    if shortest == longest:
        return [0.0] * len(lengths)
    return [0.5 - (n - shortest) / (longest - shortest) for n in lengths]
