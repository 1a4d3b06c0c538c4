"""Arms in fixed shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlcore.curriculum.armed import Armed, By, even
from rlcore.types import Task


class Mixture(Armed):
    """Example: `Mixture(tasks, weights={"easy": 3, "hard": 1}, seed=0)` draws three easy tasks for each hard one.

    weights: by arm, on any scale; an arm that is not named is not drawn. Without weights all arms are alike, whatever
    their numbers of tasks.
    """

    def __init__(self, tasks: Sequence[Task], *, weights: Mapping[str, float] | None = None, by: By = "arm", seed: int) -> None:
        super().__init__(tasks, by=by, seed=seed)
        self._shares = even(len(self.arms)) if weights is None else self.given(weights, "curriculum mixture")

    def shares(self) -> list[float]:
        """The weights over their sum."""
        return self._shares
