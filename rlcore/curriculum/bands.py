"""Tasks in bands by how often they are solved; what was learnt of a task long ago is forgotten."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlcore.curriculum.category_sampler import normalised
from rlcore.curriculum.epochs import PASS, Epochs
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task

BANDS = ("unseen", "hard", "middle", "easy")
DEFAULT = {"unseen": 0.3, "hard": 0.1, "middle": 0.5, "easy": 0.1}


class Bands(Epochs):
    """Draws from bands of solve rate with fixed shares; inside a band the task that was drawn longest ago.

    hard: solve rate at most `low`; easy: at least `high`; middle: between; unseen: never observed, or observed more than `age`
    steps ago. A band that is empty gives its share to the others. shares: by band, on any scale.
    State: two numbers for each task that has been observed; drawing costs the same for any number of tasks.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        low: float = 0.2,
        high: float = 0.8,
        age: int = 100,
        shares: Mapping[str, float] = DEFAULT,
        seed: int,
    ) -> None:
        known = set(shares) <= set(BANDS) and any(shares.values()) and min(shares.values()) >= 0
        if not 0 <= low < high <= 1 or age < 1 or not known:
            raise RecipeError(
                f"curriculum bands needs 0 <= low < high <= 1, age >= 1 and shares of {', '.join(BANDS)}, got low={low}, "
                f"high={high}, age={age}, shares={dict(shares)}"
            )
        self._low, self._high, self._age = low, high, age
        self._share = {band: shares.get(band, 0.0) for band in BANDS}
        self._known: dict[int, tuple[float, int]] = {}
        """Solve rate and step of the last observation, in the order of observation."""
        self._queues: dict[str, dict[int, None]] = {band: {} for band in BANDS}
        """Positions that wait in each band, the next one first; those forgotten wait in "unseen"."""
        self._steps = self._draws = 0
        super().__init__(tasks, seed=seed)

    def band(self, position: int) -> str:
        """Where a task is now."""
        if position not in self._known:
            return "unseen"
        rate, _ = self._known[position]
        return "hard" if rate <= self._low else "easy" if rate >= self._high else "middle"

    def draw(self, n: int) -> list[int]:
        """Positions of the next n tasks; one that is drawn waits at the end of its band until it is observed."""
        self._draws += 1
        rng = random.Random(f"{self._seed}/draw/{self._draws}")
        return [self._take(rng) for _ in range(n)]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Put every task into the band of its new solve rate, and forget what is too old."""
        self._log.observe(
            [replace(outcome, category=self.band(outcome.index)) for outcome in outcomes]
        )
        self._steps += 1
        for outcome in outcomes:
            if outcome.rewards:
                self._leave(outcome.index)
                self._known.pop(outcome.index, None)
                self._known[outcome.index] = (
                    sum(r >= PASS for r in outcome.rewards) / len(outcome.rewards),
                    self._steps,
                )
                self._queues[self.band(outcome.index)][outcome.index] = None
        while (
            self._known
            and self._steps - (oldest := next(iter(self._known.items())))[1][1] > self._age
        ):
            self._leave(oldest[0])
            del self._known[oldest[0]]
            self._queues["unseen"][oldest[0]] = None

    def state_dict(self) -> dict[str, Any]:
        """Where the walk stands, what is known of each task, and who waits in what order."""
        return super().state_dict() | {
            "steps": self._steps,
            "draws": self._draws,
            "known": [[position, rate, step] for position, (rate, step) in self._known.items()],
            "queues": {band: list(queue) for band, queue in self._queues.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._steps, self._draws = state["steps"], state["draws"]
        self._known = {position: (rate, step) for position, rate, step in state["known"]}
        self._queues = {band: dict.fromkeys(queue) for band, queue in state["queues"].items()}

    def _take(self, rng: random.Random) -> int:
        fresh = len(self._known) + len(self._queues["unseen"]) < self._size
        open_bands = [band for band in BANDS if self._queues[band] or (band == "unseen" and fresh)]
        weights = [self._share[band] for band in open_bands]
        band = rng.choices(
            open_bands, normalised(weights) if any(weights) else [1.0] * len(weights)
        )[0]
        if band == "unseen" and not self._queues["unseen"]:
            return self._fresh()
        position = next(iter(self._queues[band]))
        del self._queues[band][position]
        self._queues[band][position] = None
        return position

    def _fresh(self) -> int:
        """The next task of the walk of which nothing is known."""
        while True:
            (position,) = super().draw(1)
            if position not in self._known and position not in self._queues["unseen"]:
                return position

    def _leave(self, position: int) -> None:
        for queue in self._queues.values():
            queue.pop(position, None)
