"""Tasks by the variance of their scores, largest first, as Qwen2.5 orders its queries (arXiv
2412.15115).
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence

from rlcore.curriculum.categories import column
from rlcore.curriculum.epochs import Epochs
from rlcore.errors import RecipeError
from rlcore.types import Task


class VarianceFirst(Epochs):
    """Tasks whose completions were scored most differently come first; ties keep their order, those
    without variance come last.

    by: a column with the scores of several completions of each task, or with a pass rate p, whose
    variance is p (1 - p). Measure it once before the run: sample each task a few times and keep
    the scores.
    """

    def __init__(self, tasks: Sequence[Task], *, by: str = "scores", seed: int) -> None:
        variances = [_variance(scores, by) for scores in column(tasks, by)]
        self._sorted = sorted(range(len(variances)), key=lambda position: -variances[position])
        super().__init__(tasks, seed=seed)

    def _arrange(self, rng: random.Random) -> list[int]:
        return self._sorted


def _variance(scores: float | Sequence[float], by: str) -> float:
    if isinstance(scores, int | float) and 0 <= scores <= 1:
        return scores * (1 - scores)
    if isinstance(scores, Sequence) and not isinstance(scores, str) and scores:
        return statistics.pvariance(scores)
    raise RecipeError(
        f"curriculum variance: the column {by!r} must hold scores or a pass rate from 0 to 1, not {scores!r}"
    )
