"""Accuracy of a vote in which each completion has a weight: learning by teaching's choice of an answer (M1)."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import combinations

from rlcore.measures.majority import votes_of

MAX_SUBSETS = 4000
"""Above so many k-subsets, as many are drawn instead."""

RULES: Mapping[str, Callable[[Iterable[float]], float]] = {"sum": math.fsum, "max": max}
"""How the weights of the completions that give one answer become the weight of the answer."""


def weighted_vote_at_k(
    answers: Sequence[Hashable | None],
    weights: Sequence[float],
    rights: Sequence[float],
    k: int,
    *,
    rule: str = "sum",
) -> float:
    """Expected accuracy of the answer of largest weight among k of these n completions, over k-subsets.

    answers: [n], what each completion votes for; None is no vote. weights: [n], at least 0. rights:
    [n], how right each completion is, 0 to 1; an answer is as right as its completions are on
    average. rule: the weight of an answer is the sum of those of its completions, or the largest.
    Answers of equal weight share the decision. With equal weights the rule `sum` is the majority vote.
    Exact up to `MAX_SUBSETS` subsets; of more, as many are drawn, always the same.
    Source: LbT (arXiv 2406.14629), SUM and MAX. Raises `ValueError` for lengths or k that do not fit, and a weight below 0.
    """
    n = len(answers)
    if not len(weights) == len(rights) == n:
        raise ValueError(
            f"{n} answers, {len(weights)} weights and {len(rights)} marks do not fit"
        )
    if not 1 <= k <= n:
        raise ValueError(f"a vote of {k} needs at least {k} completions of a task, not {n}")
    if n and min(weights) < 0:
        raise ValueError(f"a vote has weights of at least 0, not {min(weights):g}")
    right_of = {
        answer: sum(given) / len(given) for answer, given in votes_of(answers, rights).items()
    }
    of_answer = RULES[rule]
    subsets = list(_subsets(n, k))
    total = 0.0
    for subset in subsets:
        cast: dict[Hashable, list[float]] = {}
        for index in subset:
            if answers[index] is not None:
                cast.setdefault(answers[index], []).append(weights[index])
        if not cast:
            continue
        totals = {answer: of_answer(given) for answer, given in cast.items()}
        most = max(totals.values())
        winners = [answer for answer, weight in totals.items() if weight == most]
        total += sum(right_of[answer] for answer in winners) / len(winners)
    return total / len(subsets)


def _subsets(n: int, k: int) -> Iterable[Sequence[int]]:
    if math.comb(n, k) <= MAX_SUBSETS:
        return combinations(range(n), k)
    draw = random.Random(0)
    return (draw.sample(range(n), k) for _ in range(MAX_SUBSETS))
