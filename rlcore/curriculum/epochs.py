"""What samplers without a preference between categories have in common: a walk through positions,
epoch by epoch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rlcore.errors import RunError, TaskError
from rlcore.types import Outcome, Task

PASS = 0.5
"""A rollout passes if its first reward is at least this: right for rewards in {0, 1} and in {-1,
1}.
"""


class Epochs:
    """Draws the positions of an epoch's order, then those of the next; subclasses may arrange an
    epoch otherwise.
    """

    def __init__(self, tasks: Sequence[Task], *, seed: int) -> None:
        if not len(tasks):
            raise TaskError("the task set is empty: a task sampler needs at least one task")
        self._size = len(tasks)
        self._seed = seed
        self._epoch = 0
        self._position = 0
        self._order = self._arrange(self._rng())
        self._log = CategoryLog()

    def _arrange(self, rng: random.Random) -> list[int]:
        """The positions of an epoch in order, at least one; all chance comes from `rng`.

        Here all, shuffled.
        """
        order = list(range(self._size))
        rng.shuffle(order)
        return order

    def _rng(self) -> random.Random:
        return random.Random(f"{self._seed}/{self._epoch}")

    def draw(self, n: int) -> list[int]:
        """Positions of the next n tasks; the next epoch begins where one runs out."""
        positions: list[int] = []
        while len(positions) < n:
            if self._position == len(self._order):
                self._epoch += 1
                self._position = 0
                self._order = self._arrange(self._rng())
            end = self._position + n - len(positions)
            part = self._order[self._position : end]
            positions += part
            self._position += len(part)
        return positions

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Note the outcomes for `metrics`; they do not change what is drawn."""
        self._log.observe(outcomes)

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch and position: the order itself follows from them."""
        return {
            "size": self._size,
            "seed": self._seed,
            "epoch": self._epoch,
            "position": self._position,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises `RunError` if the task set has another size now.
        """
        check_size(state["size"], self._size)
        self._seed = state["seed"]
        self._epoch = state["epoch"]
        self._position = state["position"]
        self._order = self._arrange(self._rng())

    def metrics(self) -> dict[str, float]:
        """`curriculum/<category>/{frac,pass_rate}` of the outcomes observed last."""
        return self._log.metrics()


def passes(outcome: Outcome) -> list[bool]:
    """Whether each scored rollout of a group passed: by its first reward, or by its reward where
    that is not known.
    """
    return [score >= PASS for score in outcome.scores or outcome.rewards]


def check_size(before: int, now: int) -> None:
    """Raise `RunError` if a checkpoint was made with another number of tasks."""
    if before != now:
        raise RunError(
            f"the checkpoint was drawing from {before} tasks and there are {now} now: "
            "resume with the same task data"
        )


class CategoryLog:
    """Fraction and pass rate of each category among the outcomes observed last."""

    def __init__(self) -> None:
        self._last: Sequence[Outcome] = ()

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Replace what is reported."""
        self._last = tuple(outcomes)

    def metrics(self) -> dict[str, float]:
        """`frac` of the groups, `pass_rate` of the scored rollouts and `loss` of the demonstrations;
        a category has no pass rate where nothing was scored, and no loss where none was measured.
        """
        values: dict[str, float] = {}
        for category in sorted({outcome.category for outcome in self._last}):
            groups = [outcome for outcome in self._last if outcome.category == category]
            passed: list[bool] = []
            for outcome in groups:
                passed += passes(outcome)
            values[f"curriculum/{category}/frac"] = len(groups) / len(self._last)
            if passed:
                values[f"curriculum/{category}/pass_rate"] = sum(passed) / len(passed)
            losses = [group.loss for group in groups if group.loss is not None]
            if losses:
                values[f"curriculum/{category}/loss"] = sum(losses) / len(losses)
        return values
