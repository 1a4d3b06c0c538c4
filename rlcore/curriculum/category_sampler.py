"""What samplers that choose between categories share: a share for each category, a draw inside it, and what was seen of it."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from rlcore.curriculum.categories import Categories
from rlcore.curriculum.epochs import PASS, CategoryLog
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task

Signal = Literal["advantage", "centred", "progress"]
By = str | Sequence[str]


class CategorySampler(ABC):
    """Draws every task in two steps: a category by `shares`, then a task of that category without replacement.

    by: "category", a column, or several columns whose product makes the categories ("domain" and "level").
    """

    def __init__(self, tasks: Sequence[Task], *, by: By = "category", seed: int) -> None:
        self.categories = Categories(tasks, by=by, seed=seed)
        self._seed, self._draws = seed, 0
        self._log = CategoryLog()

    @abstractmethod
    def shares(self) -> list[float]:
        """Probability of each category, [categories], summing to 1."""

    def given(self, shares: Mapping[str, float], owner: str) -> list[float]:
        """Shares by category on any scale, 0 for the categories not named, as probabilities, [categories]. Raises `RecipeError`."""
        by_number = {
            self.categories.number(str(name), owner): share for name, share in shares.items()
        }
        if min(by_number.values(), default=-1) < 0 or not any(by_number.values()):
            raise RecipeError(
                f"{owner} needs shares of 0 or more, one of them above 0, got {dict(shares)}"
            )
        return normalised(
            [by_number.get(category, 0.0) for category in range(len(self.categories))]
        )

    def learn(self, seen: Mapping[int, Sequence[Outcome]]) -> None:  # noqa: B027 (a sampler that learns nothing is a sampler)
        """Change the shares, given one step's outcomes by category."""

    def values(self) -> Sequence[float] | None:
        """What the sampler thinks each category is worth, [categories], for the metrics."""
        return None

    def choose(self, rng: random.Random, n: int) -> list[int]:
        """Categories of the next n tasks, drawn independently."""
        shares = self.shares()
        if (
            len(shares) != len(self.categories)
            or not all(0 <= share < math.inf for share in shares)
            or not any(shares)
        ):
            wanted = f"shares() must give a number of 0 or more for each of {len(self.categories)} categories, one of them above 0"
            raise RecipeError(
                f"curriculum {type(self).__name__}: {wanted}, not {repr(shares)[:80]}"
            )
        return rng.choices(range(len(self.categories)), weights=shares, k=n)

    def draw(self, n: int) -> list[int]:
        """Positions of the next n tasks."""
        chosen = self.choose(random.Random(f"{self._seed}/draw/{self._draws + 1}"), n)
        self._draws += 1
        return [self.categories.take(category) for category in chosen]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from one step's finished groups, of all ranks. A group without a scored rollout teaches nothing."""
        self._log.observe(
            [
                replace(outcome, category=self.categories.names[self.categories.of[outcome.index]])
                for outcome in outcomes
            ]
        )
        seen: dict[int, list[Outcome]] = {}
        for outcome in outcomes:
            if outcome.rewards:
                seen.setdefault(self.categories.of[outcome.index], []).append(outcome)
        self.learn(seen)

    def state_dict(self) -> dict[str, Any]:
        """Where each category's walk stands and what was learnt."""
        return {
            "seed": self._seed,
            "draws": self._draws,
            "categories": self.categories.state_dict(),
            "learnt": self.learnt(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken. Raises `RunError` if the task set is another one now."""
        self.categories.load_state_dict(state["categories"])
        self._seed, self._draws = state["seed"], state["draws"]
        self.relearn(state["learnt"])

    def learnt(self) -> dict[str, Any]:
        """What `learn` changed, as plain JSON values."""
        return {}

    def relearn(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Take back what `learnt` gave."""

    def metrics(self) -> dict[str, float]:
        """`curriculum/<category>/{frac,pass_rate}` of the outcomes observed last, and `value` of every category."""
        values = zip(self.categories.names, self.values() or (), strict=False)
        return self._log.metrics() | {f"curriculum/{name}/value": value for name, value in values}


def mean_signal(outcomes: Sequence[Outcome], signal: Signal, before: float) -> float:
    """What a category earned in one step: a mean over all scored rollouts of its outcomes.

    advantage: |advantage| as credit gave it. centred: |reward - mean of its group|, whatever the credit. progress: mean reward
    minus `before`, the category's mean reward when it was seen last.
    """
    n = sum(len(outcome.rewards) for outcome in outcomes)
    if signal == "advantage":
        return sum(outcome.abs_advantage * len(outcome.rewards) for outcome in outcomes) / n
    if signal == "centred":
        return (
            sum(abs(r - sum(o.rewards) / len(o.rewards)) for o in outcomes for r in o.rewards) / n
        )
    return mean_reward(outcomes) - before


def mean_reward(outcomes: Sequence[Outcome]) -> float:
    """Mean over the scored rollouts."""
    rewards = [reward for outcome in outcomes for reward in outcome.rewards]
    return sum(rewards) / len(rewards)


def pass_rate(outcomes: Sequence[Outcome]) -> float:
    """Share of the scored rollouts that pass."""
    rewards = [reward for outcome in outcomes for reward in outcome.rewards]
    return sum(reward >= PASS for reward in rewards) / len(rewards)


def softmax(scores: Sequence[float]) -> list[float]:
    """exp(score) over their sum, finite for scores of any size."""
    largest = max(scores)
    return normalised([math.exp(score - largest) for score in scores])


def normalised(weights: Sequence[float]) -> list[float]:
    """Weights over their sum."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def even(n: int) -> list[float]:
    """n equal shares."""
    return [1 / n] * n


def check_choice(owner: str, **choices: tuple[str, Sequence[str]]) -> None:
    """Raise `RecipeError` for a word that is not among those a parameter takes."""
    for name, (value, known) in choices.items():
        if value not in known:
            raise RecipeError(
                f"curriculum {owner}: {name} is {value!r}; choose {' or '.join(known)}"
            )
