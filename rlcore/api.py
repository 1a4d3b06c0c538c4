"""Runs from Python: `rlcore.train`, with objects where a recipe names them.

    import rlcore

    @rlcore.reward
    def brief(completion, answer, **columns):
        return float(answer in completion and len(completion) < 80)

    def watch(step, metrics):
        print(step, metrics["reward/mean"])

    rlcore.train("quickstart", rewards=[brief], callbacks=[watch], overrides=["stages.rl.steps=20"])

Objects become names (`file.py:brief`), so that worker processes and a later `--resume` find them: functions and classes
must stand at the top level of a file or module.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.errors import RecipeError
from rlcore.recipe.load import load, load_mapping
from rlcore.recipe.schema import Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from rlcore.run.driver import Summary
    from rlcore.run.tracking import Callback


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    rewards: Sequence[Any] | None = None,
    engine: Any = None,
    callbacks: Sequence[Callback | Callable[[int, dict[str, Any]], None]] = (),
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
) -> Summary:
    """Run a recipe: its name, its file, a mapping with the same keys, or a checked `Recipe`.

    rewards: replace those of all stages. engine: a name or class in place of the recipe's. Wherever a recipe names a part,
    a mapping may hold the function or class itself. callbacks: called on the main process after every step, see
    `rlcore.run.tracking.Callback`; a plain function is called with the step and its metrics.

    Raises what `rlcore train` prints as one sentence: subclasses of `rlcore.errors.RlcoreError`.
    """
    if not isinstance(recipe, Recipe):
        recipe = _load(recipe, rewards, engine, overrides)
    elif rewards is not None or engine is not None or overrides:
        raise RecipeError(
            "rlcore.train was given a checked Recipe and changes to it: pass the recipe's name or mapping instead"
        )
    from rlcore.run import driver

    return driver.train(
        recipe, callbacks=callbacks, resume=resume, overwrite=overwrite, console=console
    )


def _load(
    recipe: str | Path | Mapping[str, Any],
    rewards: Sequence[Any] | None,
    engine: Any,
    overrides: Sequence[str],
) -> Recipe:
    changes: dict[str, Any] = {}
    if rewards is not None:
        changes["rewards"] = [name_of(reward) for reward in rewards]
    if engine is not None:
        changes["engine"] = name_of(engine)
    if isinstance(recipe, Mapping):
        return load_mapping(with_names(recipe), overrides, changes)
    return load(str(recipe), overrides, changes)


def with_names(value: Any) -> Any:
    """The same mapping or list with every function and class replaced by its name."""
    if isinstance(value, Mapping):
        return {key: with_names(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_names(item) for item in value]
    return name_of(value) if callable(value) else value


def name_of(part: Any) -> Any:
    """`file.py:name` or `package.module:name` of a function or class; names and mappings stay. Raises `RecipeError`."""
    if isinstance(part, str):
        return part
    if isinstance(part, Mapping):
        return with_names(part)
    name = getattr(part, "__qualname__", None)
    if name is None:
        raise RecipeError(
            f"{part!r} is an object of type {type(part).__name__}: pass its class, or {{'use': class, **parameters}}, so "
            "that other processes can make it"
        )
    module = sys.modules.get(part.__module__)
    file = getattr(module, "__file__", None)
    if "<" in name or (part.__module__ == "__main__" and file is None):
        raise RecipeError(
            f"{name} cannot be found by other processes: define it at the top level of a file and import it from there"
        )
    # A script is not importable under the name __main__, and a file beside a script only from its folder.
    is_package = module is not None and "." in part.__module__
    return (
        f"{part.__module__}:{name}"
        if is_package or file is None
        else f"{Path(file).resolve()}:{name}"
    )
