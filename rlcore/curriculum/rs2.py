"""RS2, repeated random subsets: the control that a curriculum has to beat (wins over 29 pruning
methods at its publication).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from rlcore.curriculum.epochs import Epochs
from rlcore.errors import RecipeError
from rlcore.types import Task


class Rs2(Epochs):
    """A new random subset of the tasks each epoch.

    share: its size, of all tasks. replace: False walks a permutation, so that ceil(1 / share)
    epochs see every task; True draws each epoch's subset afresh.
    """

    def __init__(
        self, tasks: Sequence[Task], *, share: float = 0.1, replace: bool = False, seed: int
    ) -> None:
        if not 0 < share <= 1:
            raise RecipeError(
                f"curriculum rs2: share is {share}, but must be above 0 and at most 1"
            )
        self._share, self._replace = share, replace
        super().__init__(tasks, seed=seed)

    def _arrange(self, rng: random.Random) -> list[int]:
        k = math.ceil(self._share * self._size)
        if self._replace:
            return rng.sample(range(self._size), k)
        walk, part = divmod(self._epoch, math.ceil(self._size / k))
        order = list(range(self._size))
        random.Random(f"{self._seed}/walk/{walk}").shuffle(order)
        return order[part * k : (part + 1) * k]
