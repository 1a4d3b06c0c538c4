"""The parts that a recipe can name, and their parameters: read from signatures and docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlcore.credit.estimator import ESTIMATOR_CONTEXT, ESTIMATORS
from rlcore.credit.group import BASELINES
from rlcore.credit.pairs import BUILDER_CONTEXT, PAIRS
from rlcore.credit.split import SPLITTERS
from rlcore.credit.step_values import SCHEMES
from rlcore.credit.turns import SCHEMES as TURN_SCHEMES
from rlcore.curriculum.filter import FILTERS
from rlcore.curriculum.length_budget import BUDGETS
from rlcore.curriculum.prefilter import PREFILTERS
from rlcore.curriculum.task_sampler import CURRICULA
from rlcore.env.forms import ENVIRONMENTS, TOOLS
from rlcore.objective.preference import PAIR_LOSSES
from rlcore.objective.presets import PRESETS, find_preset
from rlcore.plugin import find, signature
from rlcore.recipe.build import FOLLOW_UPS, POLICY_REWARDS, TASKS
from rlcore.recipe.build_learner import ENGINE_CONTEXT, ENGINES
from rlcore.recipe.corpus import FORMS, KEEP
from rlcore.recipe.optim_sections import SCHEDULES
from rlcore.scoring.forms import OFFERED, RewardSpec, form_of
from rlcore.scoring.load import find_reward, registered_rewards
from rlcore.tasks.made import MAKER_CONTEXT, MAKERS
from rlcore.transforms.transform import TRANSFORMS


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
    meaning: str


COMMON = {
    "seed": "of everything random in it",
    "size": "number of tasks",
    "prompt": "text of the prompt",
    "clip_low": "how far below 1 the ratio counts",
    "clip_high": "how far above 1 the ratio counts",
    "min_lr_ratio": "the last learning rate, as a fraction of lr",
}
"""Meaning of parameters that many parts have, where a docstring does not say more."""


def kinds() -> dict[str, Kind]:
    """Every kind of part, by the key of a recipe that names it."""
    rewards = {**dict.fromkeys(registered_rewards(), ""), **POLICY_REWARDS}
    return {
        "tasks": Kind(TASKS),
        "form": Kind(FORMS, offered=1, context=("tokenizer", "entropies")),
        "keep": Kind(KEEP),
        "make": Kind(MAKERS, offered=1, context=MAKER_CONTEXT),
        "rewards": Kind(rewards),
        "curriculum": Kind(CURRICULA, offered=1, context=("seed",)),
        "filter": Kind(FILTERS),
        "prefilter": Kind(PREFILTERS, offered=2, context=("seed",)),
        "budget": Kind(BUDGETS, context=("steps",)),
        "follow_up": Kind(FOLLOW_UPS, offered=2),
        "transform": Kind(TRANSFORMS, offered=2),
        "objective": Kind(dict.fromkeys(PRESETS, "")),
        "schedule": Kind(SCHEDULES),
        "baseline": Kind(BASELINES, offered=1, context=("lengths",)),
        "split": Kind(SPLITTERS),
        "scheme": Kind(SCHEMES, offered=1),
        "steps": Kind(ESTIMATORS, context=ESTIMATOR_CONTEXT),
        "turns": Kind(TURN_SCHEMES, offered=1),
        "pairs": Kind(PAIRS, offered=1, context=BUILDER_CONTEXT),
        "method": Kind(PAIR_LOSSES),
        "env": Kind(ENVIRONMENTS),
        "tools": Kind(TOOLS),
        "engine": Kind(ENGINES, context=ENGINE_CONTEXT),
    }


def part_help(kind: str, name: str) -> tuple[str, list[Parameter]]:
    """What the docstring of a part says, and the parameters a recipe may set.

    Raises `RecipeError` for an unknown name.
    """
    description = kinds()[kind]
    part = _find(kind, name, description)
    text = inspect.getdoc(part) or ""
    parameters = list(signature(part).parameters.values())[description.offered :]
    meanings = parameter_meanings(text, [parameter.name for parameter in parameters])
    passed = {*description.context}
    if kind == "rewards" and not inspect.isclass(part):
        passed.update(OFFERED[form_of(part)])
    shown = []
    for parameter in parameters:
        if parameter.name in passed:
            continue
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        shown.append(
            Parameter(
                parameter.name,
                _type(parameter.annotation),
                _default(parameter.default),
                meanings.get(parameter.name, COMMON.get(parameter.name, "")),
            )
        )
    return text, shown


def parameter_meanings(docstring: str, names: Sequence[str]) -> dict[str, str]:
    """What a docstring says of each parameter.

    That is the text after `name:` (or `name, other:`) up to the next such label or empty line; without
    a label, the first sentence that has the name as a word.
    """
    any_name = "|".join(map(re.escape, names))
    label = re.compile(rf"(?:^|(?<=\s))((?:{any_name})(?:, (?:{any_name}))*): ")
    meanings: dict[str, str] = {}
    for paragraph in docstring.split("\n\n"):
        text = " ".join(paragraph.split())
        labels = list(label.finditer(text))
        ends = [match.start() for match in labels[1:]] + [len(text)]
        for match, end in zip(labels, ends, strict=True) if labels else ():
            for name in match[1].split(", "):
                meanings.setdefault(name, text[match.end() : end].strip().rstrip(".;"))
    sentences = re.split(r"(?<=[.;]) ", " ".join(docstring.split()))
    for name in names:
        mentions = [text for text in sentences if re.search(rf"\b{re.escape(name)}\b", text)]
        if mentions:
            meanings.setdefault(name, mentions[0].rstrip(".;"))
    return meanings


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
