"""Accuracy against capability by difficulty ("Reinforcement Learning vs. Distillation", Kim et al. 2025).

Accuracy is how often a question is answered rightly; capability is how many questions are answered rightly at least
once in k tries, which is pass@k. Training can raise one and not the other.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from rlcore.measures.intervals import mean_interval
from rlcore.measures.pass_at_k import pass_at_k

EDGES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the bins of difficulty: below them lies the bin of questions that are never answered rightly."""

Counts = Mapping[Hashable, tuple[int, int]]
"""Question -> (completions, right ones)."""


@dataclass(frozen=True)
class Ability:
    """Of one model, over some questions."""

    questions: int
    accuracy: float
    capability: float
    """pass@k."""
    capability_interval: tuple[float, float] | None
    """95%, over questions."""


@dataclass(frozen=True)
class Bin:
    """Questions whose success rate under the base model is in (low, high]; the first bin is [0, 0]."""

    low: float
    high: float
    before: Ability
    after: Ability


def ability(counts: Sequence[tuple[int, int]], k: int) -> Ability:
    """Accuracy and capability from (completions, right ones) of each question. Raises `ValueError` for fewer than k."""
    capabilities = [pass_at_k(n, right, k) for n, right in counts]
    return Ability(
        questions=len(counts),
        accuracy=sum(right / n for n, right in counts) / len(counts),
        capability=sum(capabilities) / len(counts),
        capability_interval=mean_interval([[value] for value in capabilities]),
    )


def by_difficulty(
    base: Counts, before: Counts, after: Counts, k: int, edges: Sequence[float] = EDGES
) -> list[Bin]:
    """What training changed in each bin of difficulty; empty bins are left out.

    base: decides the bin of each question, once. Use completions of the base model other than
    `before`: if one set of completions both chooses the bin and is measured, its luck is counted
    twice, and the hardest bin rises by itself. Questions that one of the three lacks are left out.
    """
    common = [question for question in base if question in before and question in after]
    rate = {question: base[question][1] / base[question][0] for question in common}
    bins = []
    for low, high in [(0.0, 0.0), *zip(edges, edges[1:], strict=False)]:
        members = [
            question
            for question in common
            if low < rate[question] <= high or rate[question] == low == high
        ]
        if members:
            abilities = [ability([counts[q] for q in members], k) for counts in (before, after)]
            bins.append(Bin(low, high, *abilities))
    return bins
