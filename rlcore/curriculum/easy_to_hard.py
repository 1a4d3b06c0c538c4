"""From one mix of categories to another as training goes on (reinforcement mid-training, arXiv
2509.24375).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.curriculum.category_sampler import By, CategorySampler
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class EasyToHard(CategorySampler):
    """Shares of categories that are `start` in the first `hold` steps, `end` from step `until`
    on, and move in a line between.

    Steps are those that were observed, so resampled tasks do not hurry it. Shares are on any
    scale; a category that is not named is not drawn. Example: `EasyToHard(tasks, start={"easy":
    2, "hard": 1}, end={"hard": 1}, hold=30, until=70, seed=0)`.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        start: Mapping[str, float],
        end: Mapping[str, float],
        hold: int,
        until: int,
        by: By = "category",
        seed: int,
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        if not 0 <= hold < until:
            raise RecipeError(
                f"curriculum easy_to_hard needs 0 <= hold < until, got {hold} and {until}"
            )
        self._start = self.shares_by_name(start, "curriculum easy_to_hard")
        self._end = self.shares_by_name(end, "curriculum easy_to_hard")
        self._hold = hold
        self._until = until
        self._steps = 0

    def shares(self) -> list[float]:
        """Those of the step to come."""
        progress = (self._steps - self._hold) / (self._until - self._hold)
        weight = min(1.0, max(0.0, progress))
        return [
            (1 - weight) * start + weight * end
            for start, end in zip(self._start, self._end, strict=True)
        ]

    def learn(self, outcomes: Mapping[int, Sequence[Outcome]]) -> None:
        """Count the step."""
        self._steps += 1

    def learned_state(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
