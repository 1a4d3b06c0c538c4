"""Weights by category: how much the samples of each kind of task count.

As in RLPT's J_ASR + lambda J_MSR (arXiv 2509.19249).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rlcore.credit.group import Credit
from rlcore.types import Group, Sample


def weighted_categories(credit: Credit, weights: Mapping[str, float]) -> Credit:
    """Samples of a category weigh what `weights` says, 1 if it says nothing.

    Averages still divide by all samples of the step, so the gradient is linear in each weight.
    """

    def weigh(groups: Sequence[Group]) -> list[list[Sample]]:
        result = []
        for group, samples in zip(groups, credit(groups), strict=True):
            weight = weights.get(group.task.category, 1.0)
            result.append(
                [replace(sample, weight=sample.weight * weight) for sample in samples]
            )
        return result

    return weigh
