"""From one mix of categories to another as training goes on (reinforcement mid-training, arXiv 2509.24375)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlcore.curriculum.category_sampler import By, CategorySampler
from rlcore.errors import RecipeError
from rlcore.types import Task


class EasyToHard(CategorySampler):
    """Shares of categories that are `start` in the first `hold` draws, `end` from draw `until` on, and move in a line between.

    A draw is one call: one training step. Shares are on any scale; a category that is not named is not drawn.
    Example: `EasyToHard(tasks, start={"easy": 2, "hard": 1}, end={"hard": 1}, hold=30, until=70, seed=0)`.
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
        self._start, self._end = (
            self.given(shares, "curriculum easy_to_hard") for shares in (start, end)
        )
        self._hold, self._until = hold, until

    def shares(self) -> list[float]:
        """Those of the next draw."""
        weight = min(1.0, max(0.0, (self._draws - self._hold) / (self._until - self._hold)))
        return [
            (1 - weight) * first + weight * last
            for first, last in zip(self._start, self._end, strict=True)
        ]
