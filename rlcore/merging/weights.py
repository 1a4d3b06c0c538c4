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
    power takes the best. Raises `RecipeError` for a value that is not above 0.
    """
    if not values or min(values) <= 0:
        raise RecipeError(f"models are weighed by numbers above 0, not by {list(values)}")
    # divided by the best, so that a large power does not overflow
    best = min(values) if lower_is_better else max(values)
    ratios = [best / value if lower_is_better else value / best for value in values]
    powers = [ratio**power for ratio in ratios]
    return [value / sum(powers) for value in powers]
