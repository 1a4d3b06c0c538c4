"""Skill-It: categories as skills in a graph; each is trained for what it gives to those still
weak (arXiv 2307.14430).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.curriculum.category_sampler import By, CategorySampler, mean_loss, softmax
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class SkillIt(CategorySampler):
    """Shares proportional to `exp(eta sum_j A_ij sum of the last `window` losses of j)`, made
    anew every `every` steps.

    The loss of a skill is a mean since the last update, of its demonstrations' losses before they
    were trained on, or in `rl` 1 - its pass rate; a skill that was not seen keeps the one before.
    Before the first update every loss counts as 1. The paper's losses are those of a validation
    set; those of an `sft` stage are that in the first epoch, when no demonstration was seen before.

    graph: skill -> {skill it helps: how much}. A skill helps itself by 1 unless the graph says
    otherwise. Edges are what you measured (train on i and j together: does j get better than
    alone?) or believe; without edges the weakest skill comes first.
    """

    learns_from_rewards = True
    learns_from_losses = True

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
                "curriculum skill_it needs eta >= 0, every >= 1, window >= 1, "
                f"got {eta}, {every}, {window}"
            )
        self._eta = eta
        self._every = every
        self._window = window
        k = len(self.categories)
        self._a = [[float(i == j) for j in range(k)] for i in range(k)]
        for skill, helped in (graph or {}).items():
            for other, weight in helped.items():
                i = self.categories.number(str(skill), "curriculum skill_it")
                j = self.categories.number(str(other), "curriculum skill_it")
                self._a[i][j] = float(weight)
        self._losses: list[list[float]] = []
        """Of the last updates, [at most window][categories]."""
        self._sums = [[0.0, 0.0] for _ in range(k)]
        """Sum of losses, and their number, of each skill since the last update."""
        self._steps = 0

    def shares(self) -> list[float]:
        """Probability of each skill now."""
        totals = [1.0] * len(self.categories)
        if self._losses:
            totals = [sum(losses) for losses in zip(*self._losses, strict=True)]
        logits = []
        for effects in self._a:
            gain = sum(a * loss for a, loss in zip(effects, totals, strict=True))
            logits.append(self._eta * gain)
        return softmax(logits)

    def learn(self, outcomes: Mapping[int, Sequence[Outcome]]) -> None:
        """Count, and at every `every`-th step update."""
        for category, of_category in outcomes.items():
            n = sum(max(1, len(outcome.rewards)) for outcome in of_category)
            self._sums[category][0] += mean_loss(of_category) * n
            self._sums[category][1] += n
        self._steps += 1
        if self._steps % self._every == 0:
            self._update()

    def _update(self) -> None:
        """Note the loss of each skill since the last update, and count anew."""
        losses = list(self.values())
        for skill, (total, n) in enumerate(self._sums):
            if n:
                losses[skill] = total / n
        self._losses = [*self._losses, losses][-self._window :]
        self._sums = [[0.0, 0.0] for _ in self._sums]

    def values(self) -> Sequence[float]:
        """Last loss of each skill."""
        return self._losses[-1] if self._losses else [1.0] * len(self.categories)

    def learned_state(self) -> dict[str, Any]:
        return {
            "losses": list(self._losses),
            "sums": [list(pair) for pair in self._sums],
            "steps": self._steps,
        }

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self._losses = state["losses"]
        self._sums = [list(pair) for pair in state["sums"]]
        self._steps = state["steps"]
