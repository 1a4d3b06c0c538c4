"""Scheme `vine`: Monte-Carlo values in place of a value network, for right and wrong answers alike."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.credit.group import Credit
from rlcore.credit.step_values import Values, by_step, reward_spread
from rlcore.types import Group, Sample, StepValues


def vine(credit: Credit, values: Values, *, scale: float = 1.0, normalise: bool = False) -> Credit:
    """VinePPO (arXiv 2410.01679): tokens of step i get scale x A_i = scale x (Q_i - Q_(i-1)), in every answer.

    The paper estimates Q_0 by continuations too (`start: rollouts`) and whitens over the batch (baseline "global"). An answer
    that the budget left without step values keeps the group's advantage. normalise: A_i is divided by the standard deviation of
    the group's rewards, as baseline "mean_std" does.
    """

    def stepwise(group: Group, sample: Sample, steps: StepValues | None) -> Sample:
        if steps is None:
            return sample
        factor = scale / reward_spread(group) if normalise else scale
        return by_step(sample, steps, [factor * own for own in steps.advantages])

    def whole(groups: Sequence[Group]) -> list[list[Sample]]:
        found = values(groups, answers="all")
        return [
            [stepwise(group, sample, found.get(sample.id)) for sample in samples]
            for group, samples in zip(groups, credit(groups), strict=True)
        ]

    return whole
