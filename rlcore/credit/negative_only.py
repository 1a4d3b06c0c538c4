"""Scheme `negative_only`: nothing is learned but what to leave undone."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.credit.group import Credit
from rlcore.credit.step_values import Values, by_step
from rlcore.types import Group, Sample


def negative_only(
    credit: Credit, values: Values, *, scale: float = 1.0, least: float = 0.0
) -> Credit:
    """Steps with A_i < -least get scale x A_i. All other steps, right answers, and answers without values are not trained.

    The per-step half of arXiv 2406.14532 alone: combine it with an `sft` stage, or use it to see what negatives are worth.
    """

    def whole(groups: Sequence[Group]) -> list[list[Sample]]:
        found = values(groups, answers="negatives")
        return [
            [
                by_step(
                    sample,
                    found[sample.id],
                    [scale * a if a < -least else None for a in found[sample.id].advantages],
                )
                for sample in samples
                if sample.id in found and min(found[sample.id].advantages) < -least
            ]
            for samples in credit(groups)
        ]

    return whole
