"""Published methods by name: the keys of an rl stage that a publication sets.

A preset (`rlcore.objective.presets`) is a loss; a method is a loss with the baseline, the filter and
the treatment of equal rewards that its publication uses it with. `method: dr_grpo` therefore also
takes the mean as baseline, while `objective: dr_grpo` changes the loss alone.

`with_method` lays a method's keys under a stage's own, so every piece can be replaced. No torch here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rlcore.errors import RecipeError
from rlcore.plugin import did_you_mean

DEFAULT = "grpo"


@dataclass(frozen=True, kw_only=True)
class Method:
    """What one publication sets."""

    objective: str
    """Name of the preset, with the preset's default parameters."""
    baseline: str
    source: str
    """Paper, and where in it the pieces are defined."""
    zero_variance: str = "drop"
    """Groups of equal rewards. Papers count such groups in their averages ("keep"), where they add
    nothing to the gradient; here they leave the averages, for all methods alike. Methods "keep" them
    whose gradient is not zero there."""
    filter: str | None = None
    credit: Mapping[str, Any] = field(default_factory=dict)
    """Further keys of the section `credit`."""

    def keys(self) -> dict[str, Any]:
        """The keys of an rl stage."""
        credit = {"baseline": self.baseline, "zero_variance": self.zero_variance, **self.credit}
        keys: dict[str, Any] = {"objective": self.objective, "credit": credit}
        if self.filter is not None:
            keys["filter"] = self.filter
        return keys


METHODS: dict[str, Method] = {
    "grpo": Method(
        objective="grpo",
        baseline="mean_std",
        source="arXiv 2402.03300, eq. 3 and 4.1.2; its KL of 0.04 is left to objective.kl",
    ),
    "dr_grpo": Method(
        objective="dr_grpo",
        baseline="mean",
        source="arXiv 2503.20783, section 3.2: no std, a constant length, no KL",
    ),
    "dapo": Method(
        objective="dapo",
        baseline="mean_std",
        filter="zero_variance",
        source="arXiv 2503.14476, section 3: clip 0.2 / 0.28, token mean, dynamic sampling, no KL; "
        "overlong shaping is the reward `overlong`",
    ),
    "rloo": Method(
        objective="rloo",
        baseline="leave_one_out",
        source="arXiv 2402.14740, section 3.3: whole sequences, no clip; its KL is kl_kind reward",
    ),
    "reinforce_pp": Method(
        objective="reinforce_pp",
        baseline="global",
        zero_variance="keep",
        source="arXiv 2501.03262: whitened over the batch; its KL is kl_kind reward",
    ),
    "reinforce_pp_baseline": Method(
        objective="reinforce_pp",
        baseline="mean_global",
        zero_variance="keep",
        source="arXiv 2501.03262, the -baseline form: group mean, then whitened; its KL is kl_kind k2",
    ),
    "kimi": Method(
        objective="kimi",
        baseline="mean",
        zero_variance="keep",
        source="arXiv 2501.12599, section 2.3.2; the regulariser also acts on groups of equal rewards",
    ),
    "gspo": Method(
        objective="gspo",
        baseline="mean_std",
        source="arXiv 2507.18071, section 4.1: clip 3e-4 / 4e-4 of the sequence's geometric mean",
    ),
    "gspo_token": Method(
        objective="gspo_token",
        baseline="mean_std",
        source="arXiv 2507.18071, section 4.3",
    ),
    "luspo": Method(
        objective="luspo",
        baseline="mean_std",
        source="arXiv 2602.05261: GSPO times the length",
    ),
    "cispo": Method(
        objective="cispo",
        baseline="mean_std",
        source="arXiv 2506.13585, section 3.1: GRPO's advantages, capped ratio, token mean, no KL",
    ),
    "sapo": Method(
        objective="sapo",
        baseline="mean_std",
        source="arXiv 2511.20347: GRPO's advantages, tau 1.0 / 1.05",
    ),
    "vespo": Method(
        objective="vespo",
        baseline="mean_std",
        source="arXiv 2602.10693, with GRPO's advantages as in TRL",
    ),
    "reinforce": Method(
        objective="reinforce",
        baseline="mean",
        source="Williams 1992, with the group's mean as baseline",
    ),
    "luffy": Method(
        objective="luffy",
        baseline="mean_std",
        credit={"demonstrations": "mixed"},
        source="arXiv 2504.14945: the demonstration counts in the group's statistics",
    ),
    "hpt": Method(
        objective="hpt",
        baseline="mean_std",
        credit={"demonstrations": "gated"},
        source="arXiv 2509.04419: demonstrations of the tasks that the policy does not solve",
    ),
}


def method_defaults(name: str) -> dict[str, Any]:
    """The keys of an rl stage that the method `name` sets. Raises `RecipeError` for an unknown name.

    Example: `method_defaults("dr_grpo")["credit"]["baseline"] == "mean"`.
    """
    if name not in METHODS:
        known = ", ".join(METHODS)
        raise RecipeError(
            f"there is no method {name!r}{did_you_mean(name, METHODS)}; use one of {known}"
        )
    return copy.deepcopy(METHODS[name].keys())


def with_method(stage: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an rl stage as written, with those of its `method` where it sets none of its own.

    A stage's `objective` replaces the method's, and only that: `objective: dr_grpo` without `method`
    is Dr.GRPO's loss with GRPO's advantages; an objective without `use` changes parameters of the
    method's. Keys of `credit` are replaced one by one. The same
    section twice through this function is the same section.
    """
    name = stage.get("method", DEFAULT)
    if not isinstance(name, str):
        raise RecipeError(f"method must be the name of a publication, not {name!r}")
    merged = method_defaults(name)
    method_credit = merged["credit"]
    method_objective = merged["objective"]
    merged.update(stage)
    objective = stage.get("objective")
    if isinstance(objective, Mapping) and not {"use", "preset"} & objective.keys():
        merged["objective"] = {"use": method_objective, **objective}
    merged["method"] = name
    credit = stage.get("credit", {})
    if isinstance(credit, Mapping):
        merged["credit"] = {**method_credit, **credit}
    return merged
