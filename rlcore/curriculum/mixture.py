"""Categories in fixed shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlcore.curriculum.category_sampler import By, CategorySampler, even
from rlcore.types import Task


class Mixture(CategorySampler):
    """Example: `Mixture(tasks, weights={"easy": 3, "hard": 1}, seed=0)` draws three easy tasks
    for each hard one.

    weights: by category, on any scale; a category that is not named is not drawn. Without weights
    all categories are alike, whatever their numbers of tasks.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        weights: Mapping[str, float] | None = None,
        by: By = "category",
        seed: int,
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        self._shares = (
            even(len(self.categories))
            if weights is None
            else self.shares_by_name(weights, "curriculum mixture")
        )

    def shares(self) -> list[float]:
        """The weights over their sum."""
        return self._shares
