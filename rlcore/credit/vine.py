"""Scheme `vine`: Monte-Carlo values in place of a value network, for right and wrong completions
alike.
"""

from __future__ import annotations

from rlcore.credit.group import Credit
from rlcore.credit.step_values import by_step, change_samples, reward_spread, values_of
from rlcore.types import Group, Sample, StepValues


@values_of("all")
def vine(credit: Credit, *, scale: float = 1.0, normalise: bool = False) -> Credit:
    """VinePPO (arXiv 2410.01679): tokens of step i get scale x A_i = scale x (Q_i - Q_(i-1)), in
    every completion.

    The paper estimates Q_0 by continuations too (`start: rollouts`) and whitens over the batch
    (baseline "global"). A completion that the budget left without step values keeps the group's
    advantage. normalise: A_i is divided by the standard deviation of the group's rewards, as
    baseline "mean_std" does.
    """

    def change(group: Group, sample: Sample, steps: StepValues | None) -> Sample:
        if steps is None:
            return sample
        factor = scale / reward_spread(group) if normalise else scale
        return by_step(sample, steps, [factor * advantage for advantage in steps.advantages])

    return change_samples(credit, change)
