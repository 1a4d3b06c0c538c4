"""Cyclical curriculum learning: subsets that grow and shrink again, easy tasks first among them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from rlcore.curriculum.categories import column
from rlcore.curriculum.epochs import Epochs
from rlcore.errors import RecipeError
from rlcore.types import Task


class Cyclic(Epochs):
    """CCL (arXiv 2202.05531): each epoch is a subset drawn without replacement, a task's chance in
    proportion to its score.

    The subset's share of all tasks goes from `start` by factors of 1 / alpha up to `end`, back by
    factors of alpha to `start`, and so on: 0.25, 0.5, 1, 0.5, 0.25, 0.5, ... by default.

    by: a column of scores above 0, large for easy tasks; the paper's is 1 / loss under a model that was
    trained in the ordinary way.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        by: str,
        start: float = 0.25,
        end: float = 1.0,
        alpha: float = 0.5,
        seed: int,
    ) -> None:
        owner = "curriculum cyclic"
        if not 0 < start <= end <= 1 or not 0 < alpha < 1:
            raise RecipeError(
                f"{owner} needs 0 < start <= end <= 1 and 0 < alpha < 1, got {start}, {end}, {alpha}"
            )
        self._scores = column(tasks, by)
        if not all(isinstance(score, int | float) and score > 0 for score in self._scores):
            raise RecipeError(f"{owner}: the column {by!r} must hold numbers above 0")
        self._start, self._end, self._alpha = start, end, alpha
        self._rises = math.ceil(math.log(start / end) / math.log(alpha) - 1e-9)
        """Epochs from the smallest subset to the largest."""
        super().__init__(tasks, seed=seed)

    def share(self, epoch: int) -> float:
        """Of all tasks, in this epoch."""
        if not self._rises:
            return self._end
        place = epoch % (2 * self._rises)
        from_start = min(place, 2 * self._rises - place)
        return min(self._end, self._start / self._alpha**from_start)

    def _arrange(self, rng: random.Random) -> list[int]:
        """In random order; the draw in proportion to scores is that of Efraimidis and Spirakis (2006)."""
        size = max(1, round(self.share(self._epoch) * self._size))
        keys = [math.log(1 - rng.random()) / score for score in self._scores]
        positions = sorted(range(self._size), key=lambda position: -keys[position])[:size]
        rng.shuffle(positions)
        return positions
