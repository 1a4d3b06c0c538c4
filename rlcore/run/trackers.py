"""Trackers: tensorboard, wandb and trackio, started through accelerate with the recipe as their configuration.

A resumed run goes on in the same run of the tracker: wandb finds it by an id that follows from the run folder and from
the second it was first started in, trackio by its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rlcore.errors import RecipeError
from rlcore.run.folder import RunFolder, read_rows

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rlcore.recipe.schema import Recipe


def check_trackers(names: Sequence[str]) -> None:
    """Raise `RecipeError` for a tracker whose package is missing: accelerate leaves it out without a word."""
    for name in names:
        if find_spec(name) is None:
            raise RecipeError(
                f"run.trackers names {name}, which is not installed: pip install {name}, or leave it out"
            )


def start_trackers(accelerator: Accelerator, recipe: Recipe, folder: RunFolder) -> None:
    """Start the trackers that accelerate was made with, under the recipe's name as project."""
    config = recipe.model_dump(mode="json")
    settings: dict[str, dict[str, Any]] = {
        "wandb": {
            "name": folder.path.name,
            "id": _run_id(folder),
            "resume": "allow",
            "dir": str(folder.path),
            "config": config,
        },
        "trackio": {"name": _run_id(folder), "resume": "allow", "config": config},
    }
    accelerator.init_trackers(recipe.name, init_kwargs=settings)


def _run_id(folder: RunFolder) -> str:
    """Equal for all processes that work on one run, and different for a run that replaces it."""
    starts = read_rows(folder.starts)
    first_start = starts[0]["time"] if starts else ""
    digest = blake2b(f"{folder.path.resolve()} {first_start}".encode(), digest_size=4)
    return f"{folder.path.name}-{digest.hexdigest()}"
