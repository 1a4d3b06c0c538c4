"""SEC, the self-evolving curriculum: a bandit that samples the categories with the largest
advantages (arXiv 2505.14970).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rlcore.curriculum.category_sampler import (
    By,
    CategorySampler,
    Signal,
    check_choice,
    even,
    mean_reward,
    mean_signal,
    normalised,
    softmax,
)
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class Sec(CategorySampler):
    """Example: `Sec(tasks, by=["domain", "level"], temperature=0.2, seed=0)`.

    After every step, with r the mean |advantage| of a category's rollouts, Q becomes alpha r + (1
    - alpha) Q, from Q = 0; a category is drawn with probability proportional to exp(Q /
    temperature). With 0/1 rewards of pass rate p and normalised advantages r is about 2 sqrt(p (1
    - p)): largest where half of the completions are right, 0 where all are right and where none is.

    unsampled: "decay" takes r = 0 for a category without an outcome, as the authors' code does;
    "keep" leaves its Q as it was, which matters where there are as many categories as tasks in a
    step. policy: "boltzmann", or "proportional" to Q cut at 0. epsilon: this share of the draws
    is even over the categories. signal: "advantage" of the stage's credit, "centred" (not divided
    by the standard deviation) or "progress" of the mean reward.
    """

    learns_from_rewards = True

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        by: By = "category",
        alpha: float = 0.5,
        temperature: float = 1.0,
        epsilon: float = 0.0,
        unsampled: Literal["decay", "keep"] = "decay",
        policy: Literal["boltzmann", "proportional"] = "boltzmann",
        signal: Signal = "advantage",
        seed: int,
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        check_choice(
            "sec",
            unsampled=(unsampled, ("decay", "keep")),
            policy=(policy, ("boltzmann", "proportional")),
            signal=(signal, ("advantage", "centred", "progress")),
        )
        if not (0 < alpha <= 1 and temperature > 0 and 0 <= epsilon <= 1):
            raise RecipeError(
                f"curriculum sec needs 0 < alpha <= 1, temperature > 0 and 0 <= epsilon <= 1, "
                f"got {alpha}, {temperature}, {epsilon}"
            )
        self._alpha = alpha
        self._temperature = temperature
        self._epsilon = epsilon
        self._unsampled = unsampled
        self._policy = policy
        self._signal = signal
        self._q = [0.0] * len(self.categories)
        self._reward = [0.0] * len(self.categories)

    def shares(self) -> list[float]:
        """Probability of each category now."""
        if self._policy == "boltzmann":
            chosen = softmax([q / self._temperature for q in self._q])
        else:
            positive = [max(0.0, q) for q in self._q]
            chosen = normalised(positive) if any(positive) else even(len(positive))
        return [self._epsilon / len(chosen) + (1 - self._epsilon) * share for share in chosen]

    def learn(self, outcomes: Mapping[int, Sequence[Outcome]]) -> None:
        """One TD(0) update of every category."""
        for category in range(len(self.categories)):
            if category in outcomes:
                before = self._reward[category]
                earned = mean_signal(outcomes[category], self._signal, before)
                self._reward[category] = mean_reward(outcomes[category])
            elif self._unsampled == "decay":
                earned = 0.0
            else:
                continue
            self._q[category] += self._alpha * (earned - self._q[category])

    def values(self) -> Sequence[float]:
        """Q."""
        return self._q

    def learned_state(self) -> dict[str, Any]:
        return {"q": list(self._q), "reward": list(self._reward)}

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self._q = list(state["q"])
        self._reward = list(state["reward"])
