"""Scheme `negative_only`: nothing is learned but what not to do."""

from __future__ import annotations

from rlcore.credit.group import Credit
from rlcore.credit.step_values import by_step, change_samples, values_of
from rlcore.types import Group, Sample, StepValues


@values_of("negatives")
def negative_only(credit: Credit, *, scale: float = 1.0, least: float = 0.0) -> Credit:
    """Steps with A_i < -least get scale x A_i. All other steps, and completions without values,
    are not trained.

    The per-step half of arXiv 2406.14532 alone: combine it with an `sft` stage, or use it to see
    what negatives are worth.
    """

    def change(group: Group, sample: Sample, steps: StepValues | None) -> Sample | None:
        if steps is None or min(steps.advantages) >= -least:
            return None
        lowered = [scale * value if value < -least else None for value in steps.advantages]
        return by_step(sample, steps, lowered)

    return change_samples(credit, change)
