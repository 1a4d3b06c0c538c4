"""Scheme `per_step`: a token learns from what its own step was worth, and from what the whole answer was."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.credit.group import Credit
from rlcore.credit.step_values import Values, by_step, group_advantage
from rlcore.types import Group, Sample, StepValues


def per_step(credit: Credit, values: Values, *, mix: float = 0.5, scale: float = 1.0) -> Credit:
    """Tokens of step i get (1 - mix) x group advantage + mix x scale x A_i. Answers without step values keep the group's.

    A_i is in units of reward; `scale` brings it to those of a baseline that divides by a standard deviation. In a group of wrong
    answers the group advantage is 0, and the steps still tell where each of them went wrong.
    """

    def mixed(sample: Sample, steps: StepValues | None) -> Sample:
        if steps is None:
            return sample
        shared = (1 - mix) * group_advantage(sample)
        return by_step(sample, steps, [shared + mix * scale * own for own in steps.advantages])

    def whole(groups: Sequence[Group]) -> list[list[Sample]]:
        found = values(groups, answers="negatives")
        return [
            [mixed(sample, found.get(sample.id)) for sample in samples]
            for samples in credit(groups)
        ]

    return whole
