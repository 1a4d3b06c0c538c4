"""Tasks by a score, in several passes that each cover its whole range."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rlcore.curriculum.ordered import Ordered
from rlcore.errors import RecipeError
from rlcore.types import Task


class Folded(Ordered):
    """DELT's folding (arXiv 2506.21545): sorted by a column, then the positions 0, L, 2L, ..., then 1, L + 1, ...:
    an epoch is `folds` passes from the smallest score to the largest, and has every task once.

    by, reverse: as of `ordered`. folds: L, 3 in the paper; 1 is `ordered`.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        by: str,
        folds: int = 3,
        reverse: bool = False,
        seed: int,
    ) -> None:
        if folds < 1:
            raise RecipeError(f"curriculum folded: folds is {folds}, and must be at least 1")
        self._folds = folds
        super().__init__(tasks, by=by, reverse=reverse, seed=seed)

    def _arrange(self, rng: random.Random) -> list[int]:
        order = super()._arrange(rng)
        return [
            position for fold in range(self._folds) for position in order[fold :: self._folds]
        ]
