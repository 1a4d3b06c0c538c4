"""Tasks by difficulty: smallest first, ties in random order, then from the start again."""

from __future__ import annotations

import random
from collections.abc import Sequence

from rlcore.curriculum.categories import column
from rlcore.curriculum.epochs import Epochs
from rlcore.types import Task


class Ordered(Epochs):
    """Example: `Ordered(tasks, by="level", seed=0)` goes from the lowest level to the highest.

    by: "category", or a column that holds a number or text for each task. reverse: largest first.
    """

    def __init__(
        self, tasks: Sequence[Task], *, by: str = "category", reverse: bool = False, seed: int
    ) -> None:
        self._keys, self._reverse = column(tasks, by), reverse
        super().__init__(tasks, seed=seed)

    def _arrange(self, rng: random.Random) -> list[int]:
        order = list(range(self._size))
        rng.shuffle(order)
        return sorted(order, key=lambda position: self._keys[position], reverse=self._reverse)
