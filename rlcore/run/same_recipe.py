"""Whether a recipe may continue a run: what has begun must be as the run was made, but for a few keys."""

from __future__ import annotations

import filecmp
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.errors import RunError
from rlcore.plugin import file_and_name
from rlcore.recipe.load import RUN_RECIPE, load
from rlcore.recipe.schema import Recipe
from rlcore.run.checkpoint import Cursor, all_checkpoints, read_cursor

if TYPE_CHECKING:
    from rlcore.stages.base import Stage

MAY_CHANGE = re.compile(
    r"run\.|stages\.\d+\.(steps|(critic\.)?optim\.offload)$"
    r"|engine\.(servers|start|folder|start_deadline_s|reconnect_s|deadline_s|memory_gb)\b"
)
"""Keys that may have other values in a resumed run: with more steps the run is extended, and servers and the optimiser's
states may be elsewhere."""


def check_same_recipe(
    folder: Path, recipe: Recipe, evaluations: Sequence[Mapping[str, Any]]
) -> None:
    """Raise `RunError` where the recipe of the run in `folder` differs in a key that may not change.

    evaluations: rows of the run's eval.jsonl.
    """
    saved = load(str(folder / RUN_RECIPE))
    checkpoints = all_checkpoints(folder / "checkpoints")
    cursor = read_cursor(checkpoints[-1]) if checkpoints else Cursor()
    num_begun = _num_begun(cursor, saved, evaluations)
    changes = _other_stages(saved.stages[:num_begun], recipe.stages) or [
        f"{_named(key, saved, recipe)} ({before!r} -> {now!r})"
        for key, (before, now) in changed_keys(saved, recipe).items()
        if not MAY_CHANGE.match(key)
        and not _is_to_come(key, saved, num_begun)
        and not _is_moved(before, now)
    ]
    if changes:
        begun = [stage.label for stage in saved.stages[:num_begun]]
        raise RunError(
            f"the run in {folder} was made by another recipe, first difference: "
            f"{', '.join(changes[:3])}; resume it without that change (run.*, the stages' "
            "steps and optim.offload, where the engine's servers are, further task sets and the stages to come may change"
            f"; begun: {', '.join(begun) or 'none'}), or start a new one with name=..."
        )
    _check_steps(cursor, saved.stages[:num_begun], recipe.stages)


def _num_begun(cursor: Cursor, saved: Recipe, evaluations: Sequence[Mapping[str, Any]]) -> int:
    """How many stages have left something that the run goes on from: steps in a checkpoint, or an evaluation of it."""
    reached = replace(cursor)
    reached.pass_evaluated(saved.stages, evaluations)
    return reached.stage + (reached.stage_step > 0)


def _other_stages(begun: Sequence[Stage], now: Sequence[Stage]) -> list[str]:
    """Stages that have begun and are now of another kind or name, or gone."""

    def title(stage: Stage | None) -> str:
        return f"{stage.kind} {stage.label}" if stage else "none"

    return [
        f"stage {number} ({title(old)} -> {title(new)})"
        for number, (old, new) in enumerate(zip_longest(begun, now[: len(begun)]), 1)
        if title(old) != title(new)
    ]


def _is_to_come(key: str, saved: Recipe, num_begun: int) -> bool:
    """Whether a key belongs to a stage that has not begun, or to a task set that the run did not have."""
    words = key.split(".")
    if words[0] == "stages":
        return int(words[1]) >= num_begun
    return words[0] == "tasks" and words[1] not in saved.tasks


def _named(key: str, *recipes: Recipe) -> str:
    """A key with the label of its stage, as a command names it, in place of the number."""
    words = key.split(".")
    if words[0] != "stages":
        return key
    number = int(words[1])
    labels = [recipe.stages[number].label for recipe in recipes if number < len(recipe.stages)]
    return ".".join(["stages", labels[0], *words[2:]])


def changed_keys(before: Recipe, now: Recipe) -> dict[str, tuple[Any, Any]]:
    """Key, with dots -> its values in both recipes, of keys whose values differ."""
    one, other = (flat(recipe.model_dump(mode="json")) for recipe in (before, now))
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if _located(one.get(key)) != _located(other.get(key))
    }


def _check_steps(cursor: Cursor, begun: Sequence[Stage], now: Sequence[Stage]) -> None:
    """Raise `RunError` for a change of `steps` that comes too late.

    Steps of a stage cannot change after a later stage has begun to train, and cannot be fewer
    than were made.
    """
    for index, old in enumerate(begun):
        new = now[index]
        if getattr(old, "steps", None) == getattr(new, "steps", None):
            continue
        done = _steps_done(cursor, index)
        if done is None:
            problem = "it has ended, and others went on from it"
        elif new.steps < done:
            problem = f"it has made {done} steps"
        else:
            continue
        raise RunError(
            f"stages.{new.label}.steps cannot become {new.steps}: {problem}; start a new run with "
            "name=..."
        )


def _steps_done(cursor: Cursor, stage: int) -> int | None:
    """Steps that a stage has made; None for one that has ended and cannot go on."""
    if stage == cursor.stage:
        return cursor.stage_step
    if stage == cursor.stage - 1:
        return cursor.ended_after
    return None


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict, with dots between the keys."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix: value}
    keys: dict[str, Any] = {}
    for key, item in items:
        keys |= flat(item, f"{prefix}.{key}" if prefix else str(key))
    return keys


def _is_moved(before: Any, now: Any) -> bool:
    """Whether both name the same file, or a part in it, in a project that has moved.

    The file that is there now has the name of the other one, which is gone or has the same content.
    """
    if not isinstance(before, str) or not isinstance(now, str):
        return False
    (old, old_name), (new, new_name) = file_and_name(before), file_and_name(now)
    if old_name != new_name or Path(old).name != Path(new).name or not os.path.isfile(new):
        return False
    return not os.path.exists(old) or filecmp.cmp(old, new, shallow=False)


def _located(value: Any) -> Any:
    """The value; the name of a file that exists as its absolute path."""
    if not isinstance(value, str):
        return value
    file, name = file_and_name(value)
    return f"{os.path.abspath(file)}{name}" if os.path.isfile(file) else value
