"""Thompson sampling over categories: how likely is it that a group of this category teaches
something?
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.curriculum.category_sampler import By, CategorySampler
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class Thompson(CategorySampler):
    """A Beta posterior for each category of the chance that a group has rewards that are not all
    equal.

    Every task is drawn from the category whose posterior draw is largest. discount: both counts
    of every category are multiplied by it at each step, so that the belief follows a policy that
    changes; 1 never forgets. Prior Beta(1, 1).
    """

    learns_from_rewards = True

    def __init__(
        self, tasks: Sequence[Task], *, by: By = "category", discount: float = 0.9, seed: int
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        if not 0 < discount <= 1:
            raise RecipeError(
                f"curriculum thompson: discount is {discount}, but must be above 0 and at most 1"
            )
        self._discount = discount
        self._mixed = [0.0] * len(self.categories)
        self._equal = [0.0] * len(self.categories)

    def choose(self, rng: random.Random, n: int) -> list[int]:
        """The best category of a new draw from all posteriors, n times."""
        return [self._best_of_draw(rng) for _ in range(n)]

    def _best_of_draw(self, rng: random.Random) -> int:
        counts = zip(self._mixed, self._equal, strict=True)
        chances = [rng.betavariate(1 + mixed, 1 + equal) for mixed, equal in counts]
        return chances.index(max(chances))

    def shares(self) -> list[float]:
        """Estimated from a thousand draws with a fixed seed: there is no closed form."""
        chosen = self.choose(random.Random(0), 1000)
        return [chosen.count(category) / 1000 for category in range(len(self.categories))]

    def learn(self, outcomes: Mapping[int, Sequence[Outcome]]) -> None:
        """Forget a little, then count."""
        for category in range(len(self.categories)):
            self._mixed[category] *= self._discount
            self._equal[category] *= self._discount
            for outcome in outcomes.get(category, ()):
                if max(outcome.rewards) > min(outcome.rewards):
                    self._mixed[category] += 1
                else:
                    self._equal[category] += 1

    def values(self) -> Sequence[float]:
        """Mean of each posterior."""
        counts = zip(self._mixed, self._equal, strict=True)
        return [(1 + mixed) / (2 + mixed + equal) for mixed, equal in counts]

    def learned_state(self) -> dict[str, Any]:
        return {"mixed": list(self._mixed), "equal": list(self._equal)}

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self._mixed = list(state["mixed"])
        self._equal = list(state["equal"])
