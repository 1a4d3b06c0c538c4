"""Published objectives by name: `objective("dapo", clip_high=0.3)`.

A preset weighs tokens that already have advantages. Advantages are made in `rlcore.credit` (GRPO's
are divided by the group's standard deviation, Dr.GRPO's are not); `rlcore.objective.methods` puts
both together under the name of the publication. docs/objectives.md has all of this as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from rlcore.errors import RecipeError
from rlcore.objective.correction import correct
from rlcore.objective.distill import gkd, opd, with_teacher
from rlcore.objective.entropy_control import EntropyControl
from rlcore.objective.imitation import awr, dft, hpt, luffy, sft, unlikelihood, vapo
from rlcore.objective.kl import with_kl
from rlcore.objective.off_policy import dppo, dro, gmpo, topr
from rlcore.objective.parts import both, constant, dual, entropy
from rlcore.objective.policy_gradient import (
    cispo,
    dapo,
    dr_grpo,
    grpo,
    gspo,
    gspo_token,
    kimi,
    luspo,
    ppo,
    reinforce,
    reinforce_pp,
    rloo,
    sapo,
    vespo,
)
from rlcore.objective.selection import clip_cov, kl_cov, m2po
from rlcore.objective.term import Objective, Term
from rlcore.plugin import check_params, check_type, find, signature

PRESETS: dict[str, Callable[..., Objective]] = {
    preset.__name__: preset
    for preset in (
        grpo,
        dapo,
        dr_grpo,
        gspo,
        gspo_token,
        luspo,
        cispo,
        sapo,
        vespo,
        ppo,
        reinforce_pp,
        rloo,
        reinforce,
        kimi,
        dro,
        gmpo,
        topr,
        dppo,
        m2po,
        clip_cov,
        kl_cov,
        awr,
        sft,
        dft,
        unlikelihood,
        luffy,
        hpt,
        vapo,
        opd,
        gkd,
    )
}


def find_preset(name: str) -> Callable[..., Objective]:
    """The preset called `name`, or the function at `package.module:function` or `file.py:function`.

    Raises `RecipeError`.
    """
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]
    return find(name, dict.fromkeys(PRESETS, ""), what="objective")


def objective(
    name: str,
    *,
    kl: float = 0.0,
    kl_kind: str | None = None,
    entropy: float | Mapping[str, Any] = 0.0,
    next_token: float = 0.0,
    dual_clip: float | None = None,
    correction: str | Mapping[str, Any] | None = None,
    teacher: float | Mapping[str, Any] | None = None,
    **params: Any,
) -> Objective:
    """The preset `name`, or a function of your own by its place, with its parameters and these:

        kl, kl_kind   weight of a KL (default k3) to the model the stage began with; at 0 no
                      reference model is kept; `rlcore.objective.kl` has the kinds
        entropy       weight of an entropy bonus, a mean over the update's tokens for every preset; or
                      {target, delta, ...}, a weight that moves to hold a target entropy
                      (`rlcore.objective.entropy_control`)
        next_token    weight of a next-token loss on samples of stream "text" (token mean;
                      reinforcement mid-training, 2509.24375)
        dual_clip     no gradient where A < 0 and r is above this (arXiv 1912.09729; TRL's delta)
        correction    {kind, high, low} of `rlcore.objective.correction`, on the preset's own terms
        teacher       weight of a pull to the stage's `teacher`, or {weight, divergence, beta} of
                      `rlcore.objective.distill`

    Raises `RecipeError` for an unknown name, parameter or kind, or a parameter that is missing.
    """
    owner = f"objective {name!r}"
    weights = {"kl": kl, "next_token": next_token, "dual_clip": dual_clip}
    if not isinstance(entropy, Mapping):
        weights["entropy"] = entropy
    for key, value in weights.items():
        check_type(owner, key, value, float | None)
        if value is not None and value < 0:
            raise RecipeError(f"{owner}: {key} is {value}, but must not be below 0")
    if not kl and kl_kind is not None:
        raise RecipeError(
            f"{owner}: kl_kind is {kl_kind!r}, but kl is 0: set a weight, for example kl: 0.001"
        )
    shared_keys = signature(objective).parameters
    base = _call(find_preset(name), params, owner, suggestions=shared_keys)
    select = base.select
    if dual_clip is not None:
        base = _with_dual_clip(base, dual_clip)
    if correction is not None:
        settings = {"kind": correction} if isinstance(correction, str) else correction
        base = _call(correct, settings, "the correction", base=base)
    if teacher is not None:
        settings = teacher if isinstance(teacher, Mapping) else {"weight": teacher}
        base = _call(with_teacher, settings, "the pull to the teacher", base=base)
    if kl:
        base = with_kl(base, kl, kl_kind or "k3")
    if entropy:
        base += _entropy_bonus(entropy, base.terms[0].stream)
    if next_token:
        base += _next_token_loss(next_token)
    return replace(base, select=select)


def _with_dual_clip(base: Objective, bound: float) -> Objective:
    terms = [replace(term, mask=both(term.mask, dual(bound))) for term in base.terms]
    return replace(base, terms=tuple(terms))


def _entropy_bonus(weight: float | Mapping[str, Any], stream: str) -> Objective:
    if isinstance(weight, Mapping):
        check_params(weight, signature(EntropyControl).parameters, owner="adaptive entropy")
        advantage: Any = EntropyControl(**weight)
    else:
        advantage = constant(weight)
    term = Term(
        advantage=advantage,
        likelihood=entropy,
        stream=stream,
        name="entropy",
    )
    return Objective((term,))


def _next_token_loss(weight: float) -> Objective:
    term = Term(advantage=constant(weight), stream="text", name="next_token")
    return Objective((term,))


def _call(
    part: Callable[..., Objective],
    params: Mapping[str, Any],
    owner: str,
    suggestions: Iterable[str] = (),
    **context: Any,
) -> Objective:
    """`part(**params, **context)`, where `params` come from a recipe and are checked first."""
    parameters = signature(part).parameters
    allowed = {key: value for key, value in parameters.items() if key not in context}
    also = [key for key in suggestions if key not in ("name", "params")]
    check_params(params, allowed, owner=owner, also=also)
    result = part(**params, **context)
    if not isinstance(result, Objective):
        raise RecipeError(f"{owner} must give an Objective, not a {type(result).__name__}")
    return result
