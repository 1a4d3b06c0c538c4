"""Thompson sampling over categories: how likely is it that a group of this category teaches something?"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.curriculum.category_sampler import By, CategorySampler
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class Thompson(CategorySampler):
    """A Beta posterior for each category of the chance that a group has both right and wrong answers (rewards not all equal).

    Every task is drawn from the category whose posterior draw is largest. discount: both counts of every category are multiplied by it at
    each step, so that the belief follows a policy that changes; 1 never forgets. Prior Beta(1, 1).
    """

    def __init__(
        self, tasks: Sequence[Task], *, by: By = "category", discount: float = 0.9, seed: int
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        if not 0 < discount <= 1:
            raise RecipeError(
                f"curriculum thompson: discount is {discount}, but must be above 0 and at most 1"
            )
        self._discount = discount
        self._mixed, self._equal = [0.0] * len(self.categories), [0.0] * len(self.categories)

    def choose(self, rng: random.Random, n: int) -> list[int]:
        """The best category of a new draw from all posteriors, n times."""
        counts = list(zip(self._mixed, self._equal, strict=True))
        drawn = (
            [rng.betavariate(1 + mixed, 1 + equal) for mixed, equal in counts] for _ in range(n)
        )
        return [max(range(len(chances)), key=chances.__getitem__) for chances in drawn]

    def shares(self) -> list[float]:
        """Estimated from a thousand draws with a fixed seed: there is no closed form."""
        chosen = self.choose(random.Random(0), 1000)
        return [chosen.count(category) / 1000 for category in range(len(self.categories))]

    def learn(self, seen: Mapping[int, Sequence[Outcome]]) -> None:
        """Forget a little, then count."""
        for category in range(len(self.categories)):
            self._mixed[category] *= self._discount
            self._equal[category] *= self._discount
            for outcome in seen.get(category, ()):
                counts = self._mixed if max(outcome.rewards) > min(outcome.rewards) else self._equal
                counts[category] += 1

    def values(self) -> Sequence[float]:
        """Mean of each posterior."""
        return [
            (1 + mixed) / (2 + mixed + equal)
            for mixed, equal in zip(self._mixed, self._equal, strict=True)
        ]

    def learnt(self) -> dict[str, Any]:
        return {"mixed": list(self._mixed), "equal": list(self._equal)}

    def relearn(self, state: dict[str, Any]) -> None:
        self._mixed, self._equal = list(state["mixed"]), list(state["equal"])
