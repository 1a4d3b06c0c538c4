"""EXP3 over categories: exponential weights with importance-weighted gains, which assumes nothing
of how the gains change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.curriculum.category_sampler import By, CategorySampler, mean_signal, softmax
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class Exp3(CategorySampler):
    """Shares `(1 - gamma) softmax(w) + gamma / categories`; each group of n in a step adds eta x
    gain / (share n) to w.

    The gain is the mean |advantage| of a group cut to [0, 1]. forget: w is multiplied by 1 -
    forget at each step, so that old gains fade (0 is the textbook's EXP3).
    """

    learns_from_rewards = True

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        by: By = "category",
        eta: float = 0.1,
        gamma: float = 0.1,
        forget: float = 0.05,
        seed: int,
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        if eta <= 0 or not 0 < gamma <= 1 or not 0 <= forget < 1:
            raise RecipeError(
                "curriculum exp3 needs eta > 0, 0 < gamma <= 1, 0 <= forget < 1, "
                f"got {eta}, {gamma}, {forget}"
            )
        self._eta = eta
        self._gamma = gamma
        self._forget = forget
        self._w = [0.0] * len(self.categories)

    def shares(self) -> list[float]:
        """Probability of each category now."""
        even_part = self._gamma / len(self._w)
        return [even_part + (1 - self._gamma) * share for share in softmax(self._w)]

    def learn(self, outcomes: Mapping[int, Sequence[Outcome]]) -> None:
        """Add what each category gained over the share with which it was drawn."""
        shares = self.shares()
        n = sum(len(of_category) for of_category in outcomes.values())
        self._w = [w * (1 - self._forget) for w in self._w]
        for category, of_category in outcomes.items():
            gain = sum(_gain(outcome) for outcome in of_category)
            self._w[category] += self._eta * gain / (shares[category] * n)

    def values(self) -> Sequence[float]:
        """w."""
        return self._w

    def learned_state(self) -> dict[str, Any]:
        return {"w": list(self._w)}

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self._w = list(state["w"])


def _gain(outcome: Outcome) -> float:
    """Mean |advantage| of a group, cut to [0, 1]."""
    return min(1.0, max(0.0, mean_signal([outcome], "advantage", 0.0)))
