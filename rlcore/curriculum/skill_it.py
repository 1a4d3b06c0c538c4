"""Skill-It: categories as skills in a graph; each is trained for what it gives to those still weak (arXiv 2307.14430)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.curriculum.category_sampler import By, CategorySampler, pass_rate, softmax
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class SkillIt(CategorySampler):
    """Shares proportional to `exp(eta sum_j A_ij sum of the last `window` losses of j)`, made anew every `every` steps.

    The loss of a skill is 1 - its pass rate since the last update; a skill that was not seen keeps the one before. Before the
    first update every loss counts as 1.

    graph: skill -> {skill it helps: how much}. A skill helps itself by 1 unless the graph says otherwise. Edges are what you
    measured (train on i and j together: does j get better than alone?) or believe; without edges the weakest skill comes first.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        graph: Mapping[str, Mapping[str, float]] | None = None,
        by: By = "category",
        eta: float = 0.5,
        every: int = 10,
        window: int = 3,
        seed: int,
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        if eta < 0 or every < 1 or window < 1:
            raise RecipeError(
                f"curriculum skill_it needs eta >= 0, every >= 1, window >= 1, got {eta}, {every}, {window}"
            )
        self._eta, self._every, self._window = eta, every, window
        k = len(self.categories)
        self._a = [[float(i == j) for j in range(k)] for i in range(k)]
        for skill, helped in (graph or {}).items():
            for other, weight in helped.items():
                i, j = (
                    self.categories.number(str(name), "curriculum skill_it")
                    for name in (skill, other)
                )
                self._a[i][j] = float(weight)
        self._losses: list[list[float]] = []  # [updates, at most window][categories]
        self._counts = [
            [0.0, 0.0] for _ in range(k)
        ]  # passed and scored rollouts since the last update
        self._steps = 0

    def shares(self) -> list[float]:
        """Probability of each skill now."""
        total = (
            [sum(losses) for losses in zip(*self._losses, strict=True)]
            if self._losses
            else [1.0] * len(self.categories)
        )
        return softmax(
            [
                self._eta * sum(a * loss for a, loss in zip(row, total, strict=True))
                for row in self._a
            ]
        )

    def learn(self, seen: Mapping[int, Sequence[Outcome]]) -> None:
        """Count, and at every `every`-th step update."""
        for category, outcomes in seen.items():
            n = sum(len(outcome.rewards) for outcome in outcomes)
            self._counts[category][0] += pass_rate(outcomes) * n
            self._counts[category][1] += n
        self._steps += 1
        if self._steps % self._every == 0:
            before = self._losses[-1] if self._losses else [1.0] * len(self.categories)
            now = [
                1 - passed / n if n else old
                for (passed, n), old in zip(self._counts, before, strict=True)
            ]
            self._losses = [*self._losses, now][-self._window :]
            self._counts = [[0.0, 0.0] for _ in self._counts]

    def values(self) -> Sequence[float]:
        """Last loss of each skill."""
        return self._losses[-1] if self._losses else [1.0] * len(self.categories)

    def learned_state(self) -> dict[str, Any]:
        return {
            "losses": list(self._losses),
            "counts": [list(pair) for pair in self._counts],
            "steps": self._steps,
        }

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self._losses, self._counts, self._steps = state["losses"], state["counts"], state["steps"]
