"""The keys of an rl stage: those of its method, and over them what the recipe writes. No torch here."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from rlcore.errors import RecipeError
from rlcore.objective.methods import METHODS
from rlcore.objective.preference import PAIR_LOSSES
from rlcore.plugin import did_you_mean

DEFAULT = "grpo"


def method_defaults(name: str) -> dict[str, Any]:
    """The keys of an rl stage that the method `name` sets. Raises `RecipeError` for an unknown name.

    Example: `method_defaults("dr_grpo")["credit"]["baseline"] == "mean"`.
    """
    if name not in METHODS:
        if name in PAIR_LOSSES:
            raise RecipeError(
                f"method {name!r} learns from pairs: it is one of the stage prefer (kind: prefer, method: {name}), not of rl"
            )
        known = ", ".join(METHODS)
        raise RecipeError(
            f"there is no method {name!r}{did_you_mean(name, METHODS)}; use one of {known}"
        )
    return copy.deepcopy(METHODS[name].keys())


def with_method(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an rl stage as written, with those of its `method` where it sets none of its own.

    A stage's `objective` replaces the method's, and only that: `objective: dr_grpo` without `method`
    is Dr.GRPO's loss with GRPO's advantages; an objective without `use` changes parameters of the
    method's. Keys of `credit` and `critic` are replaced one by one. The same section twice through
    this function is the same section.
    """
    name = stage.get("method", DEFAULT)
    if not isinstance(name, str):
        raise RecipeError(f"method must be the name of a publication, not {name!r}")
    merged = method_defaults(name)
    method_credit = merged["credit"]
    method_objective = merged["objective"]
    objective = stage.get("objective")
    merged.update(stage)
    if objective is None:  # also written so, to take back that of a recipe
        merged["objective"] = method_objective
    if isinstance(objective, Mapping) and not {"use", "preset"} & objective.keys():
        merged["objective"] = {"use": method_objective, **objective}
    merged["method"] = name
    credit = stage.get("credit", {})
    if isinstance(credit, Mapping):
        merged["credit"] = {**method_credit, **credit}
        if merged["credit"]["baseline"] == "critic":
            merged["critic"] = _laid_over(METHODS[name].critic, stage.get("critic"))
    return merged


def in_place_of(stage: Mapping[str, Any]) -> list[str]:
    """What an rl stage sets in place of its method's pieces, as "objective dapo (grpo: grpo)"; parameters do not count."""
    name = stage["method"]
    method = METHODS[name]
    pieces = [
        ("objective", stage["objective"], method.objective),
        ("baseline", stage["credit"]["baseline"], method.baseline),
        ("filter", stage["filter"], method.filter),
    ]
    return [
        f"{key} {_use(value) or 'none'} ({name}: {_use(published) or 'none'})"
        for key, value, published in pieces
        if _use(value) != _use(published)
    ]


def _use(named: Any) -> Any:
    """The name of a part, without its parameters."""
    return named.get("use") if isinstance(named, Mapping) else named


def _laid_over(base: Mapping[str, Any], over: Any) -> Any:
    """A section's keys over those of a method; `length_adaptive` and `gae_lambda` stand for each other."""
    if over is None:
        return dict(base)
    if not isinstance(over, Mapping):
        return over
    keys = {**base, **over}
    if "gae_lambda" in over and "length_adaptive" not in over:
        keys.pop("length_adaptive", None)
    return keys
