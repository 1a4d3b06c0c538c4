"""Tasks in bands by how often they are solved; what was observed of a task long ago is forgotten."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlcore.curriculum.category_sampler import normalised
from rlcore.curriculum.epochs import Epochs, passes
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task

BANDS = ("unseen", "hard", "middle", "easy")
DEFAULT = {"unseen": 0.3, "hard": 0.1, "middle": 0.5, "easy": 0.1}


class Bands(Epochs):
    """Draws from bands of solve rate with fixed shares; inside a band the task that was drawn
    longest ago.

    hard: solve rate at most `low`; easy: at least `high`; middle: between; unseen: never
    observed, or observed more than `age` steps ago. A band that is empty gives its share to the
    others. shares: by band, on any scale. State: two numbers for each task that has been
    observed; drawing costs the same for any number of tasks.
    """

    learns_from_rewards = True

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
        valid = set(shares) <= set(BANDS) and any(shares.values()) and min(shares.values()) >= 0
        if not 0 <= low < high <= 1 or age < 1 or not valid:
            raise RecipeError(
                f"curriculum bands needs 0 <= low < high <= 1, age >= 1 and shares of {', '.join(BANDS)}, "
                f"got low={low}, high={high}, age={age}, shares={dict(shares)}"
            )
        self._low = low
        self._high = high
        self._age = age
        self._shares = {band: shares.get(band, 0.0) for band in BANDS}
        self._observed: dict[int, tuple[float, int]] = {}
        """Solve rate and step of the last observation by position, in the order of observation."""
        self._queues: dict[str, dict[int, None]] = {band: {} for band in BANDS}
        """Positions that wait in each band, the next one first; those forgotten wait in "unseen".
        """
        self._steps = 0
        self._draws = 0
        super().__init__(tasks, seed=seed)

    def band(self, position: int) -> str:
        """Where a task is now."""
        if position not in self._observed:
            return "unseen"
        rate, _ = self._observed[position]
        if rate <= self._low:
            return "hard"
        if rate >= self._high:
            return "easy"
        return "middle"

    def draw(self, n: int) -> list[int]:
        """Positions of the next n tasks; one that is drawn waits at the end of its band until it
        is observed.
        """
        self._draws += 1
        rng = random.Random(f"{self._seed}/draw/{self._draws}")
        return [self._take(rng) for _ in range(n)]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Put every task into the band of its new solve rate, and forget what is too old."""
        renamed = [replace(outcome, category=self.band(outcome.index)) for outcome in outcomes]
        self._log.observe(renamed)
        self._steps += 1
        for outcome in outcomes:
            passed = passes(outcome)
            if passed:
                self._enter(outcome.index, sum(passed) / len(passed))
        self._forget()

    def _enter(self, position: int, rate: float) -> None:
        """Note a solve rate, as the newest observation, and move the task to its band."""
        self._leave(position)
        self._observed.pop(position, None)
        self._observed[position] = (rate, self._steps)
        self._queues[self.band(position)][position] = None

    def _forget(self) -> None:
        """Move the tasks whose last observation is too old to "unseen"."""
        while self._observed:
            position, (_, step) = next(iter(self._observed.items()))
            if self._steps - step <= self._age:
                break
            self._leave(position)
            del self._observed[position]
            self._queues["unseen"][position] = None

    def state_dict(self) -> dict[str, Any]:
        """Where the walk stands, what is known of each task, and which tasks wait in what order."""
        return super().state_dict() | {
            "steps": self._steps,
            "draws": self._draws,
            "known": [
                [position, rate, step] for position, (rate, step) in self._observed.items()
            ],
            "queues": {band: list(queue) for band, queue in self._queues.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._steps = state["steps"]
        self._draws = state["draws"]
        self._observed = {position: (rate, step) for position, rate, step in state["known"]}
        self._queues = {band: dict.fromkeys(queue) for band, queue in state["queues"].items()}

    def _take(self, rng: random.Random) -> int:
        """The next task of a band that is drawn by the shares."""
        walk_left = len(self._observed) + len(self._queues["unseen"]) < self._size
        bands = [
            band for band in BANDS if self._queues[band] or (band == "unseen" and walk_left)
        ]
        weights = [self._shares[band] for band in bands]
        weights = normalised(weights) if any(weights) else [1.0] * len(weights)
        (band,) = rng.choices(bands, weights)
        queue = self._queues[band]
        if not queue:
            return self._never_observed()
        position = next(iter(queue))
        del queue[position]
        queue[position] = None
        return position

    def _never_observed(self) -> int:
        """The next task of the walk that was never observed."""
        while True:
            (position,) = super().draw(1)
            if position not in self._observed and position not in self._queues["unseen"]:
                return position

    def _leave(self, position: int) -> None:
        for queue in self._queues.values():
            queue.pop(position, None)
