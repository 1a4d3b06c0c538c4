"""The eval stages of a recipe by themselves: what `rlcore eval` runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.errors import RecipeError, RunError
from rlcore.plugin import did_you_mean
from rlcore.recipe.load import load, recipe_names
from rlcore.recipe.model_sections import ModelSection
from rlcore.run.folder import RunFolder
from rlcore.run.same_recipe import changed_keys
from rlcore.stages.eval import EvalStage

if TYPE_CHECKING:
    from rlcore.recipe.schema import Recipe


def evaluation_recipe(name: str, overrides: Sequence[str]) -> Recipe:
    """The eval stages alone: of a recipe, or of a run folder with its last checkpoint as the model. Raises `RecipeError`."""
    from rlcore.run.checkpoint import all_checkpoints

    folder = RunFolder(Path(name))
    is_run = folder.recipe.is_file()
    known = [str(path.parent) for path in folder.path.parent.glob("*/recipe.yaml")] + list(
        recipe_names()
    )
    if not is_run and not folder.path.is_file() and name not in known:
        raise RecipeError(
            f"{name} is neither a run folder nor a recipe{did_you_mean(name, known)}"
        )
    recipe = load(str(folder.recipe) if is_run else name, overrides)
    stages = [stage for stage in recipe.stages if isinstance(stage, EvalStage)]
    if not stages:
        raise RecipeError(
            f"{name} has no eval stage; add one: {{kind: eval, tasks: ..., rewards: [{{use: ...}}]}}"
        )
    changes: dict[str, Any] = {
        "name": f"{recipe.name}-eval",
        "stages": stages[-1:] if is_run else stages,
    }
    if is_run:
        found = all_checkpoints(folder.checkpoints)
        if not found:
            raise RunError(f"the run {name} has no checkpoint to evaluate yet")
        path = found[-1] / "ema" if stages[-1].weights == "ema" else found[-1]
        changes["model"] = ModelSection(path=str(path), dtype=recipe.model.dtype)
    changes["stages"] = [
        stage.model_copy(update={"weights": "policy"}) for stage in changes["stages"]
    ]
    read = {name for stage in stages for name in stage.task_sets}
    changes["tasks"] = {
        name: section
        for name, section in recipe.tasks.items()
        # the stages that sample them are left out
        if section.use != "sampled" or name in read
    }
    return recipe.model_copy(update=changes)


def beside_others(recipe: Recipe) -> Recipe:
    """The recipe under a name that no other evaluation has: "-2" and so on behind it.

    A folder of the very same recipe is taken again, and its evaluation made anew.
    """
    wanted = recipe.name
    number = 1
    while _holds_another(recipe):
        number += 1
        recipe = recipe.model_copy(update={"name": f"{wanted}-{number}"})
    return recipe


def _holds_another(recipe: Recipe) -> bool:
    """Whether the run folder is there, with another recipe in it."""
    folder = RunFolder(Path(recipe.run.folder).expanduser() / recipe.name)
    if not folder.recipe.is_file():
        return False
    changed = changed_keys(load(str(folder.recipe)), recipe)
    return any(not key.startswith("run.") for key in changed)
