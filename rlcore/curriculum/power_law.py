"""A stream of tasks, with rehearsal of those that were met: the longer ago, the rarer."""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from rlcore.curriculum.epochs import CategoryLog, check_size
from rlcore.errors import RecipeError, TaskError
from rlcore.types import Outcome, Task


class PowerLawReplay:
    """New tasks in their order, and with probability `replay` one that was met t draws ago, with a chance
    in proportion to t^-exponent (power-law replay; exponent 0 is uniform replay).

    The stream begins again where it ends.
    """

    def __init__(
        self, tasks: Sequence[Task], *, replay: float = 0.5, exponent: float = 1.0, seed: int
    ) -> None:
        if not len(tasks):
            raise TaskError("the task set is empty: a task sampler needs at least one task")
        if not 0 <= replay < 1 or exponent < 0:
            raise RecipeError(
                f"curriculum power_law needs 0 <= replay < 1 and exponent >= 0, got {replay} and {exponent}"
            )
        self._size, self._replay, self._exponent = len(tasks), replay, exponent
        self._seed = seed
        self._draws = 0
        self._next = 0
        """Position of the next new task."""
        self._met: dict[int, int] = {}
        """Position of each task that was met -> the draw that met it last; the latest stand last."""
        self._log = CategoryLog()

    def draw(self, n: int) -> list[int]:
        """Positions of the next n tasks."""
        return [self._draw_one() for _ in range(n)]

    def _draw_one(self) -> int:
        rng = random.Random(f"{self._seed}/{self._draws}")
        if self._met and rng.random() < self._replay:
            positions = list(self._met)
            weights = [(self._draws - last) ** -self._exponent for last in self._met.values()]
            totals = list(accumulate(weights))
            place = bisect(totals, rng.random() * totals[-1])
            position = positions[min(place, len(positions) - 1)]
        else:
            position = self._next
            self._next = (self._next + 1) % self._size
        self._met.pop(position, None)
        self._met[position] = self._draws
        self._draws += 1
        return position

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Note the outcomes for `metrics`; they do not change what is drawn."""
        self._log.observe(outcomes)

    def state_dict(self) -> dict[str, Any]:
        """What was met when, in the order of the last meeting."""
        return {
            "size": self._size,
            "seed": self._seed,
            "draws": self._draws,
            "next": self._next,
            "met": [[position, last] for position, last in self._met.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. Raises `RunError` if the task set has another size now."""
        check_size(state["size"], self._size)
        self._seed = state["seed"]
        self._draws = state["draws"]
        self._next = state["next"]
        self._met = dict(state["met"])

    def metrics(self) -> dict[str, float]:
        """`curriculum/<category>/{frac,pass_rate}` of the outcomes observed last."""
        return self._log.metrics()
