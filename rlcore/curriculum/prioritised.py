"""Prioritised sampling by task: the less often a task is solved, the more often it comes (Kimi k1.5, arXiv 2501.12599)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rlcore.curriculum.epochs import PASS, Epochs
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class Prioritised(Epochs):
    """Walks the tasks in a new random order each epoch and takes each with probability `1 - success rate`.

    A task never drawn has weight 1. cap: a task that was answered `tries` times without a success gets at most this weight;
    else what cannot be solved would fill the batches. floor: every weight is at least this, so that what is solved is still seen.
    rate: of the moving average of a task's successes. State: two numbers for each task that has been observed.
    """

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
                f"curriculum prioritised needs 0 < floor <= cap <= 1 and 0 < rate <= 1, got {floor}, {cap}, {rate}"
            )
        self._cap, self._tries, self._floor, self._rate = cap, tries, floor, rate
        self._success: dict[int, float] = {}
        self._failed: dict[int, int] = {}
        """Answers to a task that was never solved."""
        self._looked = 0
        super().__init__(tasks, seed=seed)

    def weight(self, position: int) -> float:
        """Chance that the task is taken when the walk comes by."""
        weight = 1 - self._success.get(position, 0.0)
        if self._failed.get(position, 0) >= self._tries:
            weight = min(weight, self._cap)
        return max(self._floor, weight)

    def draw(self, n: int) -> list[int]:
        """Positions of the next n tasks."""
        drawn: list[int] = []
        while len(drawn) < n:
            (position,) = super().draw(1)
            self._looked += 1
            if random.Random(f"{self._seed}/take/{self._looked}").random() < self.weight(position):
                drawn.append(position)
        return drawn

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Move the success rate of every task observed."""
        super().observe(outcomes)
        for outcome in outcomes:
            if not outcome.rewards:
                continue
            passed = sum(reward >= PASS for reward in outcome.rewards)
            rate = passed / len(outcome.rewards)
            before = self._success.get(outcome.index)
            self._success[outcome.index] = (
                rate if before is None else before + self._rate * (rate - before)
            )
            if self._success[outcome.index] == 0:
                self._failed[outcome.index] = self._failed.get(outcome.index, 0) + len(
                    outcome.rewards
                )
            else:
                self._failed.pop(outcome.index, None)

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
