"""What a stage that learns from stored completions asks of the `sample` stage that writes them, seen before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.credit.pairs import answer_pairs, best_worst_pairs, short_pairs
from rlcore.errors import RecipeError
from rlcore.plugin import did_you_mean
from rlcore.recipe.build import build_rewards
from rlcore.recipe.build_learner import require_policys_tokens, require_starting_point
from rlcore.run.reward_model import reads_tokens, trained
from rlcore.tasks.lazy import LOOKED_AT

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.scoring.forms import RewardSpec
    from rlcore.stages.base import GeneratingStage, Stage

BETWEEN_COMPLETIONS = (answer_pairs, best_worst_pairs, short_pairs)
"""Builders of pairs that compare completions of one task."""


def source_of(context: Checking, data: str) -> GeneratingStage | None:
    """The sample stage of the recipe that writes `data`; None for stored rollouts of elsewhere."""
    if data not in context.samples:
        return None
    stages = context.recipe.stages
    return next(stage for stage in stages if stage.writes_samples and stage.label == data)


def check_several(context: Checking, data: str, builder: Callable[..., Any]) -> None:
    """Raise `RecipeError` where pairs compare completions of a task, and the stage samples one for each."""
    source = source_of(context, data)
    alone = source is not None and source.num_samples == 1 and not source.demonstrations
    if alone and builder in BETWEEN_COMPLETIONS:
        raise RecipeError(
            f"the pairs are of completions of one task, and stage {data} samples one for each: raise its num_samples"
        )


def check_stored_rewards(context: Checking, data: str, names: Iterable[str]) -> None:
    """Raise `RecipeError` for a reward, by its name or as reward/part, that the stage which samples `data` does not have."""
    source = source_of(context, data)
    if source is None:
        return
    known = [spec.name for spec in build_rewards(source.rewards)]
    for name in names:
        if name not in known and name.split("/")[0] not in known:
            raise RecipeError(f"stage {data} has no reward {name!r}{did_you_mean(name, known)}")


def check_categories(context: Checking, data: str, names: Iterable[str]) -> None:
    """Raise `RecipeError` for a category that no task of the stage which samples `data` has."""
    source = source_of(context, data)
    if source is None or getattr(context.tasks[source.tasks], "deferred", False):
        return
    tasks = islice(context.tasks[source.tasks], source.limit)
    known = {task.category for task in tasks if task.category is not None}
    for name in names:
        if name not in known:
            raise RecipeError(
                f"no task of stage {data} has the category {name!r}{did_you_mean(name, known)}"
            )


def check_reward_model(
    context: Checking, stage: GeneratingStage, spec: RewardSpec
) -> list[str]:
    """Raise where the model of a reward is missing, reads other tokens than the policy's, or lacks experts (`check_experts`)."""
    model = str(spec.params.get("model"))
    facts = []
    if not _trained_here(context, model) and not Path(model).expanduser().exists():
        facts = require_starting_point(model)
    if reads_tokens(model):
        require_policys_tokens(context.recipe.model, model)
    return facts + check_experts(context, stage, spec)


def _trained_here(context: Checking, model: str) -> bool:
    stages = context.recipe.stages
    return any(stage.trains_reward_model and stage.label == model for stage in stages)


def check_experts(context: Checking, stage: GeneratingStage, spec: RewardSpec) -> list[str]:
    """Raise `RecipeError` where a training stage would learn nothing of a task, for which the reward model has no experts.

    Other stages are told in a sentence what has no score.
    """
    model = str(spec.params.get("model"))
    experts = _experts_of(context.recipe.stages, model)
    if not experts:
        return []
    lacking: dict[str, str] = {}
    for name in stage.task_sets:
        for task in islice(context.tasks[name], LOOKED_AT):
            if task.category not in experts:
                lacking.setdefault(str(task.category), name)
    if not lacking:
        return []
    categories = ", ".join(lacking)
    sets = ", ".join(dict.fromkeys(lacking.values()))
    sentence = f"the reward model {model} has experts for {', '.join(experts)}, and none for {categories} of {sets}"
    if stage.trains and not spec.optional:
        raise RecipeError(
            f"{sentence}: train experts for it, leave the tasks out, or set optional: true"
        )
    return [
        f"{stage.label}: {sentence}: its completions have no such score, and rm@k leaves its tasks out"
    ]


def _experts_of(stages: Iterable[Stage], model: str) -> list[str]:
    """Categories for which a mixture of experts has some; empty for any other reward model."""
    for stage in stages:
        if stage.trains_reward_model and stage.label == model:
            return list(getattr(stage, "experts", {}))
    return list(trained(model).get("experts", {}))
