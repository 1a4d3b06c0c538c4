"""What samplers that choose between categories have in common: a probability for each category,
and draws inside it.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from rlcore.curriculum.categories import Categories
from rlcore.curriculum.epochs import CategoryLog, passes
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task

Signal = Literal["advantage", "centred", "progress"]
By = str | Sequence[str]


class CategorySampler(ABC):
    """Draws every task in two steps: a category by `shares`, then a task of that category without
    replacement.

    by: "category", a column, or several columns whose product makes the categories ("domain" and
    "level").
    """

    def __init__(self, tasks: Sequence[Task], *, by: By = "category", seed: int) -> None:
        self.categories = Categories(tasks, by=by, seed=seed)
        self._seed = seed
        self._draws = 0
        self._log = CategoryLog()

    @abstractmethod
    def shares(self) -> list[float]:
        """Probability of each category, [categories], summing to 1."""

    def shares_by_name(self, shares: Mapping[str, float], owner: str) -> list[float]:
        """Probabilities [categories] from shares by name, on any scale; categories not named get 0.

        Raises `RecipeError`.
        """
        by_number = {
            self.categories.number(str(name), owner): share for name, share in shares.items()
        }
        if min(by_number.values(), default=-1) < 0 or not any(by_number.values()):
            raise RecipeError(
                f"{owner} needs shares of 0 or more, one of them above 0, got {dict(shares)}"
            )
        numbers = range(len(self.categories))
        return normalised([by_number.get(number, 0.0) for number in numbers])

    def learn(self, outcomes: Mapping[int, Sequence[Outcome]]) -> None:  # noqa: B027 (learning nothing is allowed)
        """Change the shares, given one step's outcomes by number of the category."""

    def values(self) -> Sequence[float] | None:
        """What the sampler thinks each category is worth, [categories], for the metrics."""
        return None

    def choose(self, rng: random.Random, n: int) -> list[int]:
        """Categories of the next n tasks, drawn independently."""
        shares = self.shares()
        numbers = range(len(self.categories))
        valid = len(shares) == len(numbers) and all(0 <= share < math.inf for share in shares)
        if not valid or not any(shares):
            raise RecipeError(
                f"curriculum {type(self).__name__}: shares() must give a number of 0 or more for each of "
                f"{len(numbers)} categories, one of them above 0, not {repr(shares)[:80]}"
            )
        return rng.choices(numbers, weights=shares, k=n)

    def draw(self, n: int) -> list[int]:
        """Positions of the next n tasks."""
        chosen = self.choose(random.Random(f"{self._seed}/draw/{self._draws + 1}"), n)
        self._draws += 1
        return [self.categories.take(category) for category in chosen]

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from one step's finished groups, of all ranks.

        A group with neither a scored rollout nor a loss teaches nothing.
        """
        renamed = []
        scored: dict[int, list[Outcome]] = {}
        for outcome in outcomes:
            number = self.categories.of[outcome.index]
            renamed.append(replace(outcome, category=self.categories.names[number]))
            if outcome.rewards or outcome.loss is not None:
                scored.setdefault(number, []).append(outcome)
        self._log.observe(renamed)
        self.learn(scored)

    def state_dict(self) -> dict[str, Any]:
        """Where the walk through each category stands, and what was learned."""
        return {
            "seed": self._seed,
            "draws": self._draws,
            "categories": self.categories.state_dict(),
            "learned": self.learned_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises `RunError` if the task set is another one now.
        """
        self.categories.load_state_dict(state["categories"])
        self._seed = state["seed"]
        self._draws = state["draws"]
        self.load_learned_state(state["learned"])

    def learned_state(self) -> dict[str, Any]:
        """What `learn` changed, as plain JSON values."""
        return {}

    def load_learned_state(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Continue with what `learned_state` gave."""

    def metrics(self) -> dict[str, float]:
        """`curriculum/<category>/{frac,pass_rate}` of the outcomes observed last, and `value` of
        every category.
        """
        metrics = self._log.metrics()
        for name, value in zip(self.categories.names, self.values() or (), strict=False):
            metrics[f"curriculum/{name}/value"] = value
        return metrics


def mean_signal(outcomes: Sequence[Outcome], signal: Signal, before: float) -> float:
    """What a category earned in one step: a mean over all scored rollouts of its outcomes.

    advantage: |advantage| as credit gave it. centred: |reward - mean of its group|, whatever the
    credit. progress: mean reward minus `before`, the category's mean reward in the last step that
    had it.
    """
    if signal == "progress":
        return mean_reward(outcomes) - before
    total = 0.0
    for outcome in outcomes:
        if signal == "advantage":
            total += outcome.abs_advantage * len(outcome.rewards)
        else:
            mean = sum(outcome.rewards) / len(outcome.rewards)
            total += sum(abs(reward - mean) for reward in outcome.rewards)
    return total / sum(len(outcome.rewards) for outcome in outcomes)


def mean_reward(outcomes: Sequence[Outcome]) -> float:
    """Mean over the scored rollouts."""
    rewards = [reward for outcome in outcomes for reward in outcome.rewards]
    return sum(rewards) / len(rewards)


def pass_rate(outcomes: Sequence[Outcome]) -> float:
    """Fraction of the scored rollouts that pass."""
    passed: list[bool] = []
    for outcome in outcomes:
        passed += passes(outcome)
    return sum(passed) / len(passed)


def mean_loss(outcomes: Sequence[Outcome]) -> float:
    """Over demonstrations their mean loss; over groups 1 - pass rate."""
    losses = [outcome.loss for outcome in outcomes if outcome.loss is not None]
    return sum(losses) / len(losses) if losses else 1 - pass_rate(outcomes)


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
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise RecipeError(
                f"curriculum {owner}: {name} is {value!r}; choose {' or '.join(allowed)}"
            )
