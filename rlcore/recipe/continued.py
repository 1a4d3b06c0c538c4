"""Stages that go on from the training stage before.

    optim: continue                                         with its optimiser, schedule and settings
    optim: {continues: moments, lr: ..., schedule: ...}     with its optimiser's moments alone

Eval stages may stand between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlcore.recipe.optim_sections import OptimSection


def with_continued_optimiser(stage: Any, before: Sequence[Any]) -> Any:
    """The stage, with the settings of the stage whose optimiser it continues, if it does.

    before: the stages that run before it. Raises `ValueError` where there is no such stage, or where the two differ.
    """
    if not getattr(getattr(stage, "optim", None), "continues", False):
        return stage
    earlier = _trained_last(before)
    settings = getattr(earlier, "optim", None)
    if not isinstance(settings, OptimSection):
        raise ValueError(
            "optim: it goes on with the optimiser of an sft, offline or rl stage right before this one "
            "(eval stages may stand between), and there is none: give this stage settings of its own"
        )
    if stage.optim.continues == "moments":
        if stage.optim.use != settings.use:
            raise ValueError(
                f"optim.use is {stage.optim.use!r} and that of stage {earlier.label}, whose moments go on, is {settings.use!r}: "
                f"an optimiser has its own moments, so set it to {settings.use!r} or leave out continues"
            )
        return stage
    for key in sorted(stage.optim.model_fields_set - {"continues"}):
        value, other = getattr(stage.optim, key), getattr(settings, key)
        if value != other:
            raise ValueError(
                f"optim.{key} is {value!r} and that of stage {earlier.label}, whose optimiser goes on, is {other!r}: "
                "leave it out, or leave out continues"
            )
    return stage.model_copy(update={"optim": settings.model_copy(update={"continues": True})})


def planned_updates(stages: Sequence[Any], position: int) -> int:
    """Updates of the stage at `position` and of all whose optimiser it continues or that continue its own."""
    first = position
    while _continues(stages[first]):
        first = stages.index(_trained_last(stages[:first]))
    total = _updates(stages[first])
    for stage in stages[first + 1 :]:
        if _continues(stage):
            total += _updates(stage)
        elif stage.kind != "eval":
            break
    return total


def _updates(stage: Any) -> int:
    return stage.steps * getattr(stage, "minibatches", 1) * getattr(stage, "update_epochs", 1)


def _continues(stage: Any) -> bool:
    """Whether its schedule goes on, too."""
    return getattr(getattr(stage, "optim", None), "continues", False) is True


def _trained_last(stages: Sequence[Any]) -> Any:
    """The last stage that is no evaluation; None without one."""
    return next((stage for stage in reversed(stages) if stage.kind != "eval"), None)
