"""A filter's memory: tasks like those it rejected are passed over before anything is written for
them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rlcore.curriculum.categories import Categories
from rlcore.curriculum.task_sampler import TaskSampler, drawn
from rlcore.errors import RecipeError
from rlcore.types import Outcome, Task

PREFILTERS = {"greso": "rlcore.curriculum.prefilter:Prefilter"}
"""Name in a recipe -> a task sampler made as `Prefilter(sampler, tasks, seed=..., **parameters)`."""


class Prefilter:
    """Draws from another task sampler and takes each task with the chance that the filter accepts
    its kind.

    The chance of a kind begins at 1; a task rejected z times running is tried with chance (1 - rate)^z. That is the rule of
    GRESO (arXiv 2506.02177), which fits its base to a wanted fraction and forgets all rejections once a group is accepted.
    State: one number for each kind that was ever rejected.

    by: what is remembered together: task, each task by itself; category, a column, or several, as for samplers with categories.
    rate: how far the chance moves, in each step that had groups of the kind, to the fraction of them that the filter accepted.
    least: no chance falls below it, so that tasks which become learnable are noticed.
    """

    def __init__(
        self,
        sampler: TaskSampler,
        tasks: Sequence[Task],
        *,
        by: str | list[str] = "task",
        rate: float = 0.5,
        least: float = 0.02,
        seed: int,
    ) -> None:
        if not (0 < rate <= 1 and 0 < least <= 1):
            raise RecipeError(
                f"prefilter needs 0 < rate <= 1 and 0 < least <= 1, got {rate} and {least}"
            )
        self._sampler, self._tasks = sampler, len(tasks)
        self._rate, self._least, self._seed = rate, least, seed
        self._kinds = None if by == "task" else Categories(tasks, by=by, seed=seed)
        self._chances: dict[str, float] = {}
        self._looked = 0
        self._passed_over = self._skipped = (
            0  # since the last `observe`, and between the two before
        )

    def chance(self, position: int) -> float:
        """That a task is taken when the sampler draws it."""
        return max(self._least, self._chances.get(self._kind(position), 1.0))

    def draw(self, n: int) -> list[int]:
        """The next n positions that are not passed over."""
        taken: list[int] = []
        while len(taken) < n:
            for position in drawn(self._sampler, n - len(taken), self._tasks):
                self._looked += 1
                if random.Random(f"{self._seed}/skip/{self._looked}").random() < self.chance(
                    position
                ):
                    taken.append(position)
                else:
                    self._passed_over += 1
        return taken

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Remember what the filter accepted of each kind, and tell the sampler all."""
        self._sampler.observe(outcomes)
        accepted: dict[str, list[bool]] = {}
        for outcome in outcomes:
            accepted.setdefault(self._kind(outcome.index), []).append(outcome.accepted)
        for kind, of in accepted.items():
            before = self._chances.get(kind, 1.0)
            after = before + self._rate * (sum(of) / len(of) - before)
            if after < 1:
                self._chances[kind] = after
            else:
                self._chances.pop(kind, None)
        self._skipped, self._passed_over = self._passed_over, 0

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state, how many draws were looked at, and the chances."""
        return {
            "sampler": self._sampler.state_dict(),
            "looked": self._looked,
            "chances": dict(self._chances),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self._sampler.load_state_dict(state["sampler"])
        self._looked, self._chances = state["looked"], dict(state["chances"])

    def metrics(self) -> dict[str, float]:
        """The sampler's, and `prefilter/skipped`: tasks passed over before the outcomes observed
        last.
        """
        return self._sampler.metrics() | {"prefilter/skipped": self._skipped}

    def _kind(self, position: int) -> str:
        return (
            str(position)
            if self._kinds is None
            else self._kinds.names[self._kinds.of[position]]
        )
