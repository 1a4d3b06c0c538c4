"""Prioritised sampling by task: the less often a task is solved, the more often it comes (Kimi
k1.5, arXiv 2501.12599).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rlcore.curriculum.epochs import Epochs, passes
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class Prioritised(Epochs):
    """Walks the tasks in a new random order each epoch and takes each with probability `1 -
    success rate`.

    A task never drawn has weight 1. cap: a task with `tries` completions and no success gets at
    most this weight; else what cannot be solved would fill the batches. floor: every weight is at
    least this, so that solved tasks still come. rate: of the moving average of a task's
    successes. State: two numbers for each task that has been observed.
    """

    learns_from_rewards = True

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        cap: float = 0.5,
        tries: int = 16,
        floor: float = 0.05,
        rate: float = 0.5,
        seed: int,
    ) -> None:
        if not (0 < floor <= cap <= 1 and 0 < rate <= 1):
            raise RecipeError(
                "curriculum prioritised needs 0 < floor <= cap <= 1 and 0 < rate <= 1, "
                f"got {floor}, {cap}, {rate}"
            )
        self._cap = cap
        self._tries = tries
        self._floor = floor
        self._rate = rate
        self._success: dict[int, float] = {}
        """Success rate by position."""
        self._failed: dict[int, int] = {}
        """Completions of a task that was never solved, by position."""
        self._looked = 0
        """Tasks that the walk came by; each has a random number of its own."""
        super().__init__(tasks, seed=seed)

    def weight(self, position: int) -> float:
        """Chance that the task is taken when the walk comes by."""
        weight = 1 - self._success.get(position, 0.0)
        if self._failed.get(position, 0) >= self._tries:
            weight = min(weight, self._cap)
        return max(self._floor, weight)

    def draw(self, n: int) -> list[int]:
        """Positions of the next n tasks."""
        positions: list[int] = []
        while len(positions) < n:
            (position,) = super().draw(1)
            self._looked += 1
            rng = random.Random(f"{self._seed}/take/{self._looked}")
            if rng.random() < self.weight(position):
                positions.append(position)
        return positions

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Move the success rate of every task observed."""
        super().observe(outcomes)
        for outcome in outcomes:
            passed = passes(outcome)
            if passed:
                self._update(outcome.index, passed)

    def _update(self, position: int, passed: list[bool]) -> None:
        rate = sum(passed) / len(passed)
        before = self._success.get(position, rate)
        after = before + self._rate * (rate - before)
        self._success[position] = after
        if after == 0:
            self._failed[position] = self._failed.get(position, 0) + len(passed)
        else:
            self._failed.pop(position, None)

    def state_dict(self) -> dict[str, Any]:
        """Where the walk stands, and what is known of each task."""
        known = [
            [position, rate, self._failed.get(position, 0)]
            for position, rate in self._success.items()
        ]
        return super().state_dict() | {"looked": self._looked, "known": known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._looked = state["looked"]
        self._success = {position: rate for position, rate, _ in state["known"]}
        self._failed = {position: failed for position, _, failed in state["known"] if failed}
