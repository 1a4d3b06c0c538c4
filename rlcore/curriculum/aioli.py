"""Aioli: moves the mixture by how training on each category changes the loss of every category.

That is measured during the run, by probes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rlcore.curriculum.category_sampler import By, CategorySampler, even, mean_loss, softmax
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task


class Aioli(CategorySampler):
    """Rounds of `every` steps: first probes, then a step of exponentiated gradient on the
    mixture, then training on it.

    A probe trains `probe_steps` steps on one category mixed with an even share `smoothing` of
    all, and notes by how much the loss of every category fell; `sweeps` times over all categories
    in random order. The falls D [probed category, category] are those of mixtures M, so the
    effect of categories themselves is A = M^-1 D, shifted to 0 if an entry is negative and
    divided by its sum. The mixture p becomes proportional to `p exp(eta sum over categories of
    A)`. Source: arXiv 2411.05735.

    The loss of a category is that of the last step that saw it: the mean of its demonstrations'
    losses before they were trained on, or in `rl` 1 - its pass rate. That is coarse, so use large
    steps and few categories. Probe steps are real training steps and count in the budget; with
    `every` no longer than the probes there would be nothing else.
    """

    learns_from_rewards = True
    learns_from_losses = True

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        by: By = "category",
        eta: float = 0.2,
        every: int = 100,
        sweeps: int = 4,
        probe_steps: int = 4,
        smoothing: float = 0.625,
        seed: int,
    ) -> None:
        super().__init__(tasks, by=by, seed=seed)
        k = len(self.categories)
        probing = sweeps * probe_steps * k
        valid = eta >= 0 and 0 <= smoothing < 1 and min(sweeps, probe_steps) >= 1
        if not valid or every <= probing:
            raise RecipeError(
                "curriculum aioli needs eta >= 0, 0 <= smoothing < 1 and every > "
                f"sweeps x probe_steps x categories ({sweeps} x {probe_steps} x {k}), "
                f"got eta={eta}, smoothing={smoothing}, every={every}"
            )
        self._eta = eta
        self._every = every
        self._sweeps = sweeps
        self._probe_steps = probe_steps
        self._probing = probing
        """Steps of each round that are probes."""
        self._mixtures = (1 - smoothing) * np.eye(k) + smoothing / k
        self._p = even(k)
        self._falls = [[0.0] * k for _ in range(k)]
        self._loss = [1.0] * k
        self._before = [1.0] * k
        """Losses at the start of the present probe."""
        self._steps = 0

    @property
    def probed(self) -> int | None:
        """The category that is probed in the step to come; None outside the probes."""
        in_probes = self._steps % self._every < self._probing
        return self._probe(self._steps) if in_probes else None

    def _probe(self, steps: int) -> int:
        """The category that is probed in this step, if it is one of the probes."""
        round_, step = divmod(steps, self._every)
        sweep, probe = divmod(step // self._probe_steps, len(self.categories))
        order = list(range(len(self.categories)))
        random.Random(f"{self._seed}/sweep/{round_}/{sweep}").shuffle(order)
        return order[probe]

    def shares(self) -> list[float]:
        """Probability of each category now: a probe's mixture, or the one that was learned."""
        category = self.probed
        return self._p if category is None else self._mixtures[category].tolist()

    def learn(self, outcomes: Mapping[int, Sequence[Outcome]]) -> None:
        """Note the losses, and move the mixture after the last probe of a round.

        Losses are of the policy before this step's update: a probe's falls are known one step after it.
        """
        for category, of_category in outcomes.items():
            self._loss[category] = mean_loss(of_category)
        step = self._steps % self._every
        if step % self._probe_steps == 0 and step <= self._probing:
            if step > 0:
                self._end_probe(self._probe(self._steps - 1))
            self._before = list(self._loss)
            if step == self._probing:
                self._move()
        self._steps += 1

    def _end_probe(self, category: int) -> None:
        """Add by how much each loss fell in a probe of this category, as a mean over sweeps."""
        falls = self._falls[category]
        for other, (before, now) in enumerate(zip(self._before, self._loss, strict=True)):
            falls[other] += (before - now) / self._sweeps

    def _move(self) -> None:
        """A step of the mixture by the falls of all probes, which begin anew."""
        effect = effects(np.array(self._falls), self._mixtures)
        self._p = step_mixture(self._p, effect.sum(axis=1).tolist(), self._eta)
        self._falls = [[0.0] * len(self.categories) for _ in self._falls]

    def values(self) -> Sequence[float]:
        """The mixture that was learned."""
        return self._p

    def learned_state(self) -> dict[str, Any]:
        return {
            "p": self._p,
            "falls": [list(row) for row in self._falls],
            "loss": list(self._loss),
            "before": self._before,
            "steps": self._steps,
        }

    def load_learned_state(self, state: dict[str, Any]) -> None:
        self._p = state["p"]
        self._falls = [list(row) for row in state["falls"]]
        self._steps = state["steps"]
        self._loss = list(state["loss"])
        self._before = state["before"]


def effects(falls: np.ndarray, mixtures: np.ndarray) -> np.ndarray:
    """A [trained category, category] of the linear law `falls = mixtures A`, made non-negative by
    a shift and of sum 1.
    """
    effect = np.linalg.solve(mixtures, falls)
    effect = effect - min(0.0, float(effect.min()))
    total = float(effect.sum())
    return effect / total if total > 0 else np.full_like(effect, 1 / effect.size)


def step_mixture(p: Sequence[float], gains: Sequence[float], eta: float) -> list[float]:
    """p exp(eta gain) over its sum."""
    logs = np.log(np.maximum(p, 1e-12))
    return softmax([float(log) + eta * gain for log, gain in zip(logs, gains, strict=True)])
