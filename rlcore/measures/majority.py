"""maj@k: the chance that the answer which most of k completions give is right (self-consistency, Wang et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np


def majority_at_k(answers: Sequence[Hashable | None], rights: Sequence[float], k: int) -> float:
    """Expected accuracy of the vote of k of these n completions, over all k-subsets; exact, not sampled.

    answers: [n], what each completion votes for; None is no vote. rights: [n], how right each
    completion is, 0 to 1; an answer is as right as its completions are on average. Answers with
    equally many votes share the decision; where nobody votes, nothing is right.
    """
    n = len(answers)
    if len(rights) != n:
        raise ValueError(f"{n} answers, but {len(rights)} say whether they are right")
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} needs at least {k} completions of a task, not {n}")
    votes = votes_of(answers, rights)
    sizes = {answer: len(of_answer) for answer, of_answer in votes.items()}
    silent = n - sum(sizes.values())
    accuracy = 0.0
    for answer, of_answer in votes.items():
        right = sum(of_answer) / len(of_answer)
        if right:
            others = [size for other, size in sizes.items() if other != answer]
            accuracy += right * _wins(sizes[answer], others, silent, k)
    return accuracy / math.comb(n, k)


def votes_of(
    answers: Sequence[Hashable | None], rights: Sequence[float]
) -> dict[Hashable, list[float]]:
    """Each answer that is voted for -> how right each of its completions is."""
    votes: dict[Hashable, list[float]] = {}
    for answer, right in zip(answers, rights, strict=True):
        if answer is not None:
            votes.setdefault(answer, []).append(right)
    return votes


def _wins(size: int, others: Sequence[int], silent: int, k: int) -> float:
    """Number of k-subsets in which an answer of `size` completions has the most votes; 1/(t + 1) of one with t ties.

    others: completions of each other answer. silent: completions without a vote.
    """
    total = 0.0
    for votes in range(1, min(size, k) + 1):
        # ways[t, m]: ways to draw m of the other completions such that t answers tie and none wins
        ways = np.zeros((1, k - votes + 1))
        ways[0, 0] = 1.0
        for other in others:
            ways = _with_answer(ways, other, votes)
        for ties, of_ties in enumerate(ways):
            for drawn, number in enumerate(of_ties):
                rest = k - votes - drawn
                total += math.comb(size, votes) * number * math.comb(silent, rest) / (ties + 1)
    return total


def _with_answer(ways: np.ndarray, size: int, votes: int) -> np.ndarray:
    """The ways with the completions of one more answer, which gets at most `votes` votes."""
    ties, width = ways.shape
    wider = np.zeros((ties + 1, width))
    for drawn in range(min(size, votes, width - 1) + 1):
        is_tie = int(drawn == votes)
        moved = ways[:, : width - drawn] * math.comb(size, drawn)
        wider[is_tie : ties + is_tie, drawn:] += moved
    return wider
