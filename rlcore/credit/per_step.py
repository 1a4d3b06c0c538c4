"""Scheme `per_step`: a token learns from what its own step was worth, and from what the whole
completion was.
"""

from __future__ import annotations

from rlcore.credit.group import Credit
from rlcore.credit.step_values import by_step, change_samples, group_advantage, values_of
from rlcore.types import Group, Sample, StepValues


@values_of("negatives")
def per_step(credit: Credit, *, mix: float = 0.5, scale: float = 1.0) -> Credit:
    """Tokens of step i get (1 - mix) x group advantage + mix x scale x A_i.

    Completions without step values keep the group's advantage. A_i is in units of reward; `scale`
    brings it to those of a baseline that divides by a standard deviation. In a group of wrong
    completions the group advantage is 0, and the steps still tell where each of them went wrong.
    """

    def change(group: Group, sample: Sample, steps: StepValues | None) -> Sample:
        if steps is None:
            return sample
        common = (1 - mix) * group_advantage(sample)
        advantages = [common + mix * scale * advantage for advantage in steps.advantages]
        return by_step(sample, steps, advantages)

    return change_samples(credit, change)
