"""What must hold between a stage's environment, its tasks, its prompts and its rewards, seen before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlcore.env.base import missing
from rlcore.errors import RecipeError
from rlcore.scoring.forms import ENVIRONMENT

if TYPE_CHECKING:
    from rlcore.env.pool import EnvironmentPool
    from rlcore.recipe.check import Checking
    from rlcore.stages.base import GeneratingStage

OFFERED = ("prompt", "answer", "seed")
"""What every episode may ask for beside the columns of its task."""


def check_environment(context: Checking, stage: GeneratingStage, pool: EnvironmentPool) -> None:
    """Raise `RecipeError` or `EnvError` for tools without chat prompts, for what `reset` asks for and nothing gives, for a parameter that
    would hide a column, and for the reward `environment` of an environment that never has one.
    """
    from rlcore.rollout.conversation import require_chat

    assert stage.env is not None
    require_chat(context.recipe.prompt.format, pool.tools, stage.env.history)
    for name in stage.task_sets:
        columns = context.tasks[name][0].columns
        offered = {*OFFERED, *columns}
        for asked in pool.asks:
            if asked not in offered:
                raise RecipeError(missing(asked, offered))
        for hidden in {*pool.overlaid} & offered:
            raise RecipeError(
                f"{hidden} is a parameter here and a column of the task set {name}, which would be hidden: leave it out, or rename one"
            )
    if not pool.rewards and any(reward.use == ENVIRONMENT for reward in stage.rewards):
        raise RecipeError(
            "the reward `environment` would always be 0: tools give none; add a class with tools and a method get_reward, "
            "or name other rewards"
        )
