"""Upper confidence bounds over categories: the best category so far, and those that too little is
known of.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.curriculum.category_sampler import (
    By,
    CategorySampler,
    Signal,
    check_choice,
    mean_signal,
)
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class Ucb(CategorySampler):
    """Discounted UCB: the category with the largest `value + width sqrt(log(all draws) / draws of
    the category)`.

    value: mean signal (|advantage| by default, see `sec`) of the category's groups; a category
    never drawn comes first. The tasks of a step are chosen one after another, each counted as a
    draw at once, so that a step spreads over categories of about equal bounds. discount: of
    counts and sums at each step; 1 never forgets.
    """

    learns_from_rewards = True

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        by: By = "category",
        width: float = 0.5,
        discount: float = 0.9,
        signal: Signal = "advantage",
        seed: int,
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        check_choice("ucb", signal=(signal, ("advantage", "centred")))
        if width < 0 or not 0 < discount <= 1:
            raise RecipeError(
                f"curriculum ucb needs width >= 0 and 0 < discount <= 1, got {width} and {discount}"
            )
        self._width = width
        self._discount = discount
        self._signal = signal
        self._n = [0.0] * len(self.categories)
        self._sum = [0.0] * len(self.categories)

    def choose(self, rng: random.Random, n: int) -> list[int]:
        """The categories of the n largest bounds, each draw counted at once."""
        draws = list(self._n)
        chosen = []
        for _ in range(n):
            bounds = self._bounds(draws)
            best = bounds.index(max(bounds))
            chosen.append(best)
            draws[best] += 1
        return chosen

    def _bounds(self, draws: Sequence[float]) -> list[float]:
        """Upper bound of each category, given how often each was drawn."""
        log_total = math.log(max(math.e, sum(draws)))
        bounds = []
        for value, n in zip(self.values(), draws, strict=True):
            bounds.append(value + self._width * math.sqrt(log_total / n) if n else math.inf)
        return bounds

    def shares(self) -> list[float]:
        """Of the next hundred draws, nothing learned between them."""
        chosen = self.choose(random.Random(0), 100)
        return [chosen.count(category) / 100 for category in range(len(self.categories))]

    def learn(self, outcomes: Mapping[int, Sequence[Outcome]]) -> None:
        """Forget a little, then add every group."""
        for category in range(len(self.categories)):
            self._n[category] *= self._discount
            self._sum[category] *= self._discount
            for outcome in outcomes.get(category, ()):
                self._n[category] += 1
                self._sum[category] += mean_signal([outcome], self._signal, 0.0)

    def values(self) -> Sequence[float]:
        """Mean signal of each category."""
        return [total / n if n else 0.0 for total, n in zip(self._sum, self._n, strict=True)]

    def learned_state(self) -> dict[str, Any]:
        return {"n": list(self._n), "sum": list(self._sum)}

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self._n = list(state["n"])
        self._sum = list(state["sum"])
