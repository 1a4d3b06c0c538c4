"""Scheme `first_pit`: of a wrong completion only the step that spoiled it is pushed down."""

from __future__ import annotations

from rlcore.credit.group import Credit
from rlcore.credit.step_values import by_step, change_samples, group_advantage, values_of
from rlcore.types import Group, Sample, StepValues


@values_of("negatives")
def first_pit(credit: Credit, *, protect: bool = True, least_spread: float = 0.05) -> Credit:
    """The first pit is the first step with the lowest value (arXiv 2406.14532, Algorithm 1): all
    is lost from there on.

    Its tokens get the group's advantage or A_i of the step, whichever is lower. Steps after it
    are not trained: whatever they say, they were written when all was lost. Steps before it get
    0; `protect=False` leaves them the group's advantage. Completions whose values span less than
    `least_spread`, and those without values, keep the group's advantage.
    """

    def change(group: Group, sample: Sample, steps: StepValues | None) -> Sample:
        pit = None if steps is None else steps.pit(least_spread=least_spread)
        if steps is None or pit is None:
            return sample
        common = group_advantage(sample)
        before = 0.0 if protect else common
        lowered = min(common, steps.advantages[pit])
        steps_after = len(steps.spans) - pit - 1
        return by_step(sample, steps, [before] * pit + [lowered] + [None] * steps_after)

    return change_samples(credit, change)
