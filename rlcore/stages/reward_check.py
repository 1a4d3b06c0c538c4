"""What must hold between a stage's rewards and its tasks, seen before anything is generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rlcore.errors import RecipeError
from rlcore.recipe.build import build_rewards, build_scorer
from rlcore.recipe.shared_sections import ScoringSection
from rlcore.scoring.aggregate import weighted_sum
from rlcore.scoring.call import absent
from rlcore.tasks.lazy import LOOKED_AT
from rlcore.types import Task

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.stages.base import GeneratingStage

OF_A_BUDGET = ("budget", "max_tokens")
"""Columns that a stage's budget gives each task when it is drawn."""


def check_worker_rewards(context: Checking, stage: GeneratingStage) -> None:
    """Load the stage's rewards in a worker of their own.

    Raises `RewardError` for one that cannot be loaded, `RecipeError` if one of the first tasks has no reward or lacks a column
    that its reward asks for.
    """
    needs = _needs(context, stage)
    specs = build_rewards(stage.rewards)
    if not any(needs.values()) and not all(spec.where for spec in specs):
        return  # making tasks may take a while
    given = OF_A_BUDGET if getattr(stage, "budget", None) is not None else ()
    follows_up = getattr(stage, "follow_up", None) is not None
    for name, task in _first_tasks(context, stage):
        asked = [spec for spec in specs if spec.is_for(task)]
        if specs and not asked:
            raise RecipeError(
                f"no reward is for the task {task.id!r} of {name}: it has the values of no `where` "
                f"(category {task.category!r}, {_columns(task)})"
            )
        if follows_up or getattr(context.tasks[name], "deferred", False):
            continue  # tasks that are made of completions may have further columns
        for spec in asked:
            for column in needs.get(spec.name, ()):
                if column not in task.columns and column not in given:
                    raise RecipeError(
                        f"{absent(spec.name, column)}; the task {task.id!r} of {name} has {_columns(task)}"
                    )


def _needs(context: Checking, stage: GeneratingStage) -> Mapping[str, tuple[str, ...]]:
    """`Scorer.needs`; equal rewards of several stages are loaded once."""
    for rewards, needs in context.checked_rewards:
        if rewards == stage.rewards:
            return needs
    small = stage.model_copy(update={"scoring": ScoringSection(workers=1)})
    scorer = build_scorer(small, weighted_sum)
    needs = scorer.needs
    scorer.close()
    context.checked_rewards.append((stage.rewards, needs))
    return needs


def _first_tasks(context: Checking, stage: GeneratingStage) -> Iterator[tuple[str, Task]]:
    """The first tasks of each set, with the set's name."""
    for name in stage.task_sets:
        for task in context.tasks[name][:LOOKED_AT]:
            yield name, task


def _columns(task: Task) -> str:
    return f"columns {', '.join(task.columns) or '(none)'}"
