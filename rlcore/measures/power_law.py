"""Score against the amount of post-training data as a power law (Raghavendra et al. 2024, arXiv 2410.03717).

    score = scale * amount ** exponent

If post-training only taught a style, a few examples would do, and the exponent would be near 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlcore.measures.intervals import student_95


@dataclass(frozen=True)
class PowerLaw:
    """A fit by least squares of the logarithms, which is how far scores are off in proportion."""

    scale: float
    exponent: float
    exponent_interval: tuple[float, float] | None
    """95%; None with two points, which say nothing of the spread."""

    def predict(self, amount: float) -> float:
        return self.scale * amount**self.exponent


@dataclass(frozen=True)
class Extrapolation:
    """What a fit to the smaller amounts says of a larger one."""

    amount: float
    predicted: float
    measured: float

    @property
    def relative_error(self) -> float:
        return self.predicted / self.measured - 1


def fit_power_law(amounts: Sequence[float], scores: Sequence[float]) -> PowerLaw:
    """The power law of scores measured at some amounts of data, [n] each; amounts may repeat.

    Raises `ValueError` unless all are above 0 and there are two different amounts: a score of 0 has no logarithm.
    """
    if len(amounts) != len(scores):
        raise ValueError(f"{len(amounts)} amounts of data, but {len(scores)} scores")
    if min([*amounts, *scores], default=0) <= 0:
        raise ValueError("a power law needs amounts and scores above 0")
    if len(set(amounts)) < 2:
        raise ValueError("a power law needs at least two different amounts of data")
    n = len(amounts)
    x = [math.log(amount) for amount in amounts]
    y = [math.log(score) for score in scores]
    mean_x, mean_y = sum(x) / n, sum(y) / n
    spread = sum((value - mean_x) ** 2 for value in x)
    exponent = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    intercept = mean_y - exponent * mean_x
    interval = None
    if n > 2:
        residuals = [b - intercept - exponent * a for a, b in zip(x, y, strict=True)]
        variance = sum(residual**2 for residual in residuals) / (n - 2)
        margin = student_95(n - 2) * math.sqrt(variance / spread)
        interval = (exponent - margin, exponent + margin)
    return PowerLaw(math.exp(intercept), exponent, interval)


def extrapolate(
    amounts: Sequence[float], scores: Sequence[float], *, heldout: int
) -> list[Extrapolation]:
    """The scores at the `heldout` largest amounts, predicted from a fit to all smaller ones.

    Raises `ValueError` as `fit_power_law` does for what is left.
    """
    largest = sorted(set(amounts))[-heldout:] if heldout else []
    points = list(zip(amounts, scores, strict=True))
    smaller = [point for point in points if point[0] not in largest]
    law = fit_power_law([amount for amount, _ in smaller], [score for _, score in smaller])
    return [
        Extrapolation(amount, law.predict(amount), score)
        for amount, score in sorted(points)
        if amount in largest
    ]
