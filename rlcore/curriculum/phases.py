"""Mixtures of categories that change at given steps: domain upsampling at the end of training, two
domains with replay.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.curriculum.category_sampler import By, CategorySampler
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task

_KEYS = {"until", "weights"}
_ROUNDING = 1e-9
"""Of a task: what is owed by rounding errors alone."""


class Phases(CategorySampler):
    """Fixed shares of categories in each phase, and exactly these: of a phase's first k tasks a category
    with share s has s k, less than one more or less.

    Domain upsampling (arXiv 2406.03476) raises small domains in the last 10 to 20 percent of the steps:
    `Phases(tasks, phases=[{"until": 80, "weights": {"web": 9, "math": 1}}, {"weights": {"web": 5,
    "math": 5}}], seed=0)`. One phase alone is a mixture with exact replay.

    phases: in order. until: step at which the phase ends, counted from the start of the stage by the
    steps that were observed; the last phase has none. weights: by category, on any scale; a category
    that is not named is not drawn.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        phases: Sequence[Mapping[str, Any]],
        by: By = "category",
        seed: int,
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        self._ends = _ends(phases)
        self._shares = [
            self.shares_by_name(phase["weights"], "curriculum phases") for phase in phases
        ]
        self._steps = 0
        self._owed = [0.0] * len(self.categories)
        """Tasks that this phase's shares gave each category and that were not drawn yet, [categories]."""

    def shares(self) -> list[float]:
        """Those of the step to come."""
        phase = sum(end <= self._steps for end in self._ends)
        return self._shares[phase]

    def choose(self, rng: random.Random, n: int) -> list[int]:
        """Of the categories that are owed something, each next task is of the one that would be owed
        a whole task soonest; then the n are shuffled.

        Taking the one that is owed most would let some fall more than a task behind. Fairness in that
        sense: Baruah et al., Proportionate progress, Algorithmica 15 (1996).
        """
        shares = self.shares()
        chosen = []
        for _ in range(n):
            self._owed = [owed + share for owed, share in zip(self._owed, shares, strict=True)]
            owed_something = [i for i, owed in enumerate(self._owed) if owed > _ROUNDING]
            category = min(owed_something, key=lambda i: (1 - self._owed[i]) / shares[i])
            self._owed[category] -= 1
            chosen.append(category)
        rng.shuffle(chosen)
        return chosen

    def learn(self, outcomes: Mapping[int, Sequence[Outcome]]) -> None:
        """Count the step; a phase owes nothing of the one before."""
        self._steps += 1
        if self._steps in self._ends:
            self._owed = [0.0] * len(self.categories)

    def learned_state(self) -> dict[str, Any]:
        return {"steps": self._steps, "owed": self._owed}

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
        self._owed = state["owed"]


def _ends(phases: Sequence[Mapping[str, Any]]) -> list[int]:
    """Steps at which the phases but the last one end. Raises `RecipeError`."""
    owner = "curriculum phases"
    if not phases:
        raise RecipeError(
            f"{owner} needs at least one phase: {{until: 80, weights: {{web: 9, math: 1}}}}"
        )
    for phase in phases:
        if (
            not isinstance(phase, Mapping)
            or not phase.keys() <= _KEYS
            or "weights" not in phase
        ):
            raise RecipeError(f"{owner}: a phase has the keys until and weights, not {phase!r}")
    if "until" in phases[-1]:
        raise RecipeError(f"{owner}: the last phase lasts to the end: leave out its until")
    ends = [phase.get("until") for phase in phases[:-1]]
    whole = all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
    if not whole or any(
        after <= before for before, after in zip([0, *ends], ends, strict=False)
    ):
        raise RecipeError(
            f"{owner}: every phase but the last needs until, a step after that of the phase before it, not {ends}"
        )
    return ends
