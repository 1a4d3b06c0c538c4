"""Scheme `first_pit`: of a wrong answer only the step that spoiled it is pushed down."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.credit.group import Credit
from rlcore.credit.step_values import Values, by_step, group_advantage
from rlcore.types import Group, Sample, StepValues


def first_pit(
    credit: Credit, values: Values, *, protect: bool = True, least_spread: float = 0.05
) -> Credit:
    """The first pit is the first step with the lowest value (arXiv 2406.14532, Algorithm 1): the answer is lost from there on.

    Its tokens get the group's advantage or A_i of the step, whichever is lower. Steps after it are not trained: whatever they
    say, they were written when all was lost. Steps before it get 0; `protect=False` leaves them the group's advantage. Answers
    whose values span less than `least_spread`, and those without values, keep the group's advantage.
    """

    def cut(sample: Sample, steps: StepValues | None) -> Sample:
        pit = None if steps is None else steps.pit(least_spread=least_spread)
        if steps is None or pit is None:
            return sample
        shared = group_advantage(sample)
        lowered = min(shared, steps.advantages[pit])
        after = len(steps.spans) - pit - 1
        return by_step(
            sample, steps, [0.0 if protect else shared] * pit + [lowered] + [None] * after
        )

    def whole(groups: Sequence[Group]) -> list[list[Sample]]:
        found = values(groups, answers="negatives")
        return [
            [cut(sample, found.get(sample.id)) for sample in samples] for samples in credit(groups)
        ]

    return whole
