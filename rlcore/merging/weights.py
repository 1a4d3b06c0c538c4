"""How much each model weighs, by a number that is known of it."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.errors import RecipeError


def metric_weights(
    values: Sequence[float], *, power: float = 1.0, lower_is_better: bool = False
) -> list[float]:
    """w_i in proportion to value_i^power, of a loss to (1 / value_i)^power; they sum to 1.

    Metrics-Weighted Averaging (arXiv 2504.18580) weighs the checkpoints of a run by their loss or their
    step. Its formula is not published in full; this one has its limits: power 0 is the mean, a large
    power takes the best. A model with a metric of 0 weighs nothing. Raises `RecipeError` for a value below 0, a loss of 0,
    and where all are 0.
    """
    least = min(values, default=0)
    if least < 0 or (lower_is_better and least == 0) or not any(values):
        raise RecipeError(
            f"models cannot be weighed by {list(values)}: metrics are at least 0 and not all 0, losses above 0"
        )
    # divided by the best, so that a large power does not overflow
    best = min(values) if lower_is_better else max(values)
    ratios = [best / value if lower_is_better else value / best for value in values]
    powers = [ratio**power for ratio in ratios]
    return [value / sum(powers) for value in powers]
