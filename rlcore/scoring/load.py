"""Finding the reward that a recipe names, and checking its parameters."""

from __future__ import annotations

import difflib
import importlib.metadata
import inspect
import tomllib
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rlcore.errors import RecipeError, RewardError
from rlcore.plugin import check_params, find, signature
from rlcore.scoring.call import Reward, describe_error
from rlcore.scoring.forms import OFFERED, RewardSpec, form_of

ENTRY_POINTS = "rlcore.rewards"


def find_reward(spec: RewardSpec) -> Callable[..., Any]:
    """The function or class that a spec names. Raises `RewardError` if it cannot be imported."""
    use = spec.use
    if use.endswith(".py"):
        use = f"{use}:{Path(use).stem}"
    names = {} if ":" in use else registered_rewards()
    function = find(use, names, what="reward", error=RewardError)
    if not callable(function):
        raise RewardError(
            f"reward {spec.use!r} is of type {type(function).__name__}, not a function"
        )
    return function


def load_reward(spec: RewardSpec) -> Reward:
    """Import a reward, check its parameters, and construct it if it is a class.

    Raises `RewardError`.
    """
    function = find_reward(spec)
    _check_signature(spec, function)
    _check_params(spec, function)
    if not inspect.isclass(function):
        return Reward(spec=spec, function=function, params=spec.params)
    try:
        return Reward(spec=spec, function=function(**spec.params), params={})
    except BaseException as error:
        raise RewardError(
            f"cannot construct reward {spec.use!r}: {describe_error(error, function)}"
        ) from error


def registered_rewards() -> dict[str, str]:
    """Entry points of installed packages, and rlcore's own where it is not installed: name to `module:function`."""
    points = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return _of_checkout() | {point.name: point.value for point in points}


@cache
def _of_checkout() -> dict[str, str]:
    """What a checkout of rlcore declares, which may be only on PYTHONPATH; empty where rlcore is in no checkout."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    if not project.is_file():
        return {}
    declared = tomllib.loads(project.read_text(encoding="utf-8")).get("project", {})
    if declared.get("name") != "rlcore":  # of a folder that rlcore was put into
        return {}
    return dict(declared["entry-points"][ENTRY_POINTS])


def _check_signature(spec: RewardSpec, function: Callable[..., Any]) -> None:
    """Raise `RewardError` for a function of the old short form, or one that cannot compare."""
    called = function.__call__ if inspect.isclass(function) else function
    names = signature(called).parameters.keys()
    if form_of(function) == "short" and "gold" in names and "completion" not in names:
        raise RewardError(
            f"reward {spec.name!r} asks for 'gold': name its parameters (completion, answer, ...), "
            "where `completion` is the model's text and `answer` the task's reference answer"
        )
    if spec.against and "reference" not in names:
        raise RewardError(
            f"reward {spec.name!r} has `against: {spec.against}` but no parameter `reference`: "
            "declare it to receive the text of that column and return the gap yourself, or remove "
            "`against` (subtracting the reference's own score would change no group baseline)"
        )


def _check_params(spec: RewardSpec, function: Callable[..., Any]) -> None:
    """Raise `RewardError` for parameters that the reward cannot take.

    A parameter that a function needs may be a column of the task; what the constructor of a class
    needs must come from the recipe.
    """
    is_class = inspect.isclass(function)
    offered: Collection[str] = () if is_class else OFFERED[form_of(function)]
    parameters = signature(function).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    settable = {
        name: p
        for name, p in parameters.items()
        if name not in offered and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    for name in spec.params:
        if name in offered:
            raise RewardError(
                f"{name!r} cannot be a parameter of reward {spec.name!r}: "
                f"the engine itself passes {name!r}"
            )
    params = dict(spec.params)
    if takes_any:
        for name in spec.params:
            if name not in settable:
                _refuse_misspelling(spec, name, settable.keys() - spec.params.keys())
                del params[name]
    if not is_class:
        settable = {name: p.replace(default=None) for name, p in settable.items()}
    _check_values(params, settable, spec.name)


def _refuse_misspelling(spec: RewardSpec, name: str, unused: Collection[str]) -> None:
    """A function with `**columns` would silently accept a misspelt parameter."""
    near = difflib.get_close_matches(name, unused, n=1, cutoff=0.75)
    if near:
        raise RewardError(
            f"reward {spec.name!r} has no parameter {name!r} and would take it for a column; "
            f"did you mean {near[0]!r}?"
        )


def _check_values(
    params: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], name: str
) -> None:
    try:
        check_params(params, parameters, owner=f"reward {name!r}")
    except RecipeError as error:
        raise RewardError(str(error)) from None
