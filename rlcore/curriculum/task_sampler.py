"""What every task sampler promises: which tasks next, given what came of the earlier ones.

A recipe names one by `CURRICULA` or by place (`my_samplers.py:Sharp`); it is made as
`Sampler(tasks, seed=..., **parameters)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Protocol

from rlcore.errors import RecipeError
from rlcore.types import Outcome

CURRICULA = {
    "uniform": "rlcore.curriculum.uniform:Uniform",
    "ordered": "rlcore.curriculum.ordered:Ordered",
    "rs2": "rlcore.curriculum.rs2:Rs2",
    "variance": "rlcore.curriculum.variance:VarianceFirst",
    "prioritised": "rlcore.curriculum.prioritised:Prioritised",
    "bands": "rlcore.curriculum.bands:Bands",
    "mixture": "rlcore.curriculum.mixture:Mixture",
    "sec": "rlcore.curriculum.bandit:Sec",
    "thompson": "rlcore.curriculum.thompson:Thompson",
    "ucb": "rlcore.curriculum.ucb:Ucb",
    "exp3": "rlcore.curriculum.exp3:Exp3",
    "skill_it": "rlcore.curriculum.skill_it:SkillIt",
    "aioli": "rlcore.curriculum.aioli:Aioli",
    "easy_to_hard": "rlcore.curriculum.easy_to_hard:EasyToHard",
    "phases": "rlcore.curriculum.phases:Phases",
    "cyclic": "rlcore.curriculum.cyclic:Cyclic",
    "folded": "rlcore.curriculum.folded:Folded",
    "buckets": "rlcore.curriculum.buckets:Buckets",
    "power_law": "rlcore.curriculum.power_law:PowerLawReplay",
}
"""Name in a recipe -> where it is."""


class TaskSampler(Protocol):
    """Draws positions of a task set.

    All ranks hold one and, fed the same outcomes, draw the same positions.
    """

    def draw(self, n: int) -> list[int]:
        """Positions of the next n tasks."""

    def observe(self, outcomes: Sequence[Outcome]) -> None:
        """Learn from one step's finished groups, of all ranks; those a filter rejected are among
        them.
        """

    def state_dict(self) -> dict[str, Any]:
        """All state, as plain JSON values: what resume needs to draw the same positions."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""

    def metrics(self) -> dict[str, float]:
        """`curriculum/<category>/{share,value,pass_rate}` where the sampler has categories."""


def drawn(sampler: TaskSampler, n: int, tasks: int) -> list[int]:
    """The next n positions among so many tasks; of a sampler with `sizes_batches` as many as it gives.

    Raises `RecipeError` if the sampler gives anything else.
    """
    positions = sampler.draw(n)
    fine = isinstance(positions, list) and len(positions) > 0
    if not getattr(sampler, "sizes_batches", False):
        fine = fine and len(positions) == n
    if not fine or not all(
        isinstance(position, Integral) and 0 <= position < tasks for position in positions
    ):
        wanted = f"draw({n}) must give a list of {n} positions from 0 to {tasks - 1}"
        raise RecipeError(
            f"curriculum {type(sampler).__name__}: {wanted}, not {repr(positions)[:80]}"
        )
    return [int(position) for position in positions]
