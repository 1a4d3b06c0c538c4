"""The parts that a recipe can name, and their parameters: read from signatures and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlcore.credit.estimator import ESTIMATOR_CONTEXT, ESTIMATORS
from rlcore.credit.group import BASELINES
from rlcore.credit.split import SPLITTERS
from rlcore.credit.step_values import SCHEMES
from rlcore.curriculum.filter import FILTERS
from rlcore.curriculum.length_budget import BUDGETS
from rlcore.curriculum.prefilter import PREFILTERS
from rlcore.curriculum.task_sampler import CURRICULA
from rlcore.objective.presets import PRESETS, find_preset
from rlcore.plugin import find, signature
from rlcore.recipe.build import FOLLOW_UPS, POLICY_REWARDS, TASKS
from rlcore.recipe.build_learner import ENGINE_CONTEXT, ENGINES
from rlcore.recipe.corpus import FORMS
from rlcore.recipe.optim_sections import SCHEDULES
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.load import find_reward, registered_rewards


class Kind(NamedTuple):
    """One kind of part."""

    names: Mapping[str, str]
    """Built-in name -> where it is."""
    offered: int = 0
    """Arguments that the engine passes by position."""
    context: tuple[str, ...] = ()
    """Arguments that the engine passes by name."""


class Parameter(NamedTuple):
    """One parameter of a part."""

    name: str
    type: str
    default: str


def kinds() -> dict[str, Kind]:
    """Every kind of part, by the key of a recipe that names it."""
    rewards = {**dict.fromkeys(registered_rewards(), ""), **POLICY_REWARDS}
    return {
        "tasks": Kind(TASKS),
        "form": Kind(FORMS, offered=1, context=("tokenizer", "entropies")),
        "rewards": Kind(rewards),
        "curriculum": Kind(CURRICULA, offered=1, context=("seed",)),
        "filter": Kind(FILTERS),
        "prefilter": Kind(PREFILTERS, offered=2, context=("seed",)),
        "budget": Kind(BUDGETS, context=("steps",)),
        "follow_up": Kind(FOLLOW_UPS, offered=2),
        "objective": Kind(dict.fromkeys(PRESETS, "")),
        "schedule": Kind(SCHEDULES),
        "baseline": Kind(BASELINES, offered=1),
        "split": Kind(SPLITTERS),
        "scheme": Kind(SCHEMES, offered=1),
        "steps": Kind(ESTIMATORS, context=ESTIMATOR_CONTEXT),
        "engine": Kind(ENGINES, context=ENGINE_CONTEXT),
    }


def part_help(kind: str, name: str) -> tuple[str, list[Parameter]]:
    """What the docstring of a part says, and the parameters a recipe may set.

    Raises `RecipeError` for an unknown name.
    """
    description = kinds()[kind]
    part = _find(kind, name, description)
    parameters = list(signature(part).parameters.values())[description.offered :]
    shown = [
        Parameter(parameter.name, _type(parameter.annotation), _default(parameter.default))
        for parameter in parameters
        if parameter.name not in description.context
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    return inspect.getdoc(part) or "", shown


def _find(kind: str, name: str, description: Kind) -> Callable[..., Any]:
    if kind == "objective":
        return find_preset(name)
    if kind == "rewards" and name not in POLICY_REWARDS:
        return find_reward(RewardSpec(name))
    return find(name, description.names, what=kind)


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return inspect.formatannotation(annotation).replace("typing.", "")


def _default(value: Any) -> str:
    return "required" if value is inspect.Parameter.empty else repr(value)
