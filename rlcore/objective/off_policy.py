"""Presets whose trust region is another than PPO's clip of the token's ratio.

As in `rlcore.objective.policy_gradient`, r = pi / pi_old per token, A its advantage, N the sequences
of the update, n_i the trained tokens of sequence i, and losses are minimised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rlcore.errors import RecipeError
from rlcore.objective.parts import (
    capped,
    credit,
    sequence_credit,
    sequence_mean,
    sequence_sum,
)
from rlcore.objective.term import Objective, Term
from rlcore.objective.tokens import Tokens, row_mean, row_sum, wrapping

if TYPE_CHECKING:
    from torch import Tensor

    from rlcore.objective.parts import Advantage, Denominator, Mask


def gmpo(clip_low: float = 0.4, clip_high: float = 0.4) -> Objective:
    """GMPO (arXiv 2507.20673): -1/N sum_i A_i exp(1/n_i sum_t clip(log r_t)).

    The geometric mean of the sequence's ratios, each of them clipped in log space: at clip_high where
    A > 0, at -clip_low where A <= 0; a clipped token has no gradient. A_i is the mean of the
    sequence's advantages. GSPO clips the mean itself. TRL's GMPO has the same bounds.
    """
    if clip_low < 0 or clip_high < 0:
        raise RecipeError(f"a clip needs bounds of 0 or more, got {clip_low} and {clip_high}")
    term = Term(
        mask=_inside_log_clip(clip_low, clip_high),
        denominator=_geometric_mean(clip_low, clip_high),
        advantage=sequence_credit,
        average=sequence_mean,
    )
    return Objective((term,))


def topr() -> Objective:
    """TOPR (arXiv 2503.14286): -1/N sum_i w_i A_i log pi(i), w_i = 1 if A_i >= 0, else
    min(pi(i) / pi_old(i), 1), a constant.

    i is a whole sequence. What is good is imitated however improbable it has become, and what is bad
    stops counting once it is improbable; no KL, made for data that is many updates old. The paper's
    rewards are 1 and -1 less a constant, which decides how much the good ones weigh; `method: topr`
    takes the group's mean reward off. A token-level advantage decides by its own sign.
    """
    return Objective((Term(denominator=_tapered, average=sequence_sum),))


def dppo(
    divergence: Literal["tv", "kl"] = "tv",
    low: float | None = None,
    high: float | None = None,
    cap: float = 20.0,
) -> Objective:
    """DPPO (arXiv 2602.04879, eq. 11 to 14): token mean of -M min(r, cap) A log pi, the factor
    before log pi constant.

    r = pi / mu is taken to the policy mu that wrote the token, as recorded by the engine, so nothing is
    left for a correction. M is 0 where the token has moved further than a bound in the direction that
    A asks for: by probability, pi - mu > high if A > 0 and mu - pi > low else (tv), or by the KL of
    the two outcomes "this token" and "any other" (kl). Unlike a clip of r it leaves improbable tokens
    free to move and holds probable ones. low, high: 0.2 for tv and 0.05 for kl. cap: on r, as in verl.
    The paper's divergence over the top-k tokens is not built: the engine records one log-probability.
    """
    bound = {"tv": 0.2, "kl": 0.05}.get(divergence)
    if bound is None:
        raise RecipeError(f"dppo has the divergences tv and kl, not {divergence!r}")
    mask = _near(divergence, bound if low is None else low, bound if high is None else high)
    denominator = capped(cap, behaviour_policy)
    denominator.is_correction = True  # type: ignore[attr-defined]
    return Objective((Term(mask=mask, denominator=denominator),))


def dro(beta: float = 0.05) -> Objective:
    """DRO (arXiv 2405.19107) for each token: token mean of -A log pi + beta/2 (log r)^2.

    The loss of that name in Tinker, there a sum. The paper's own is for whole sequences, with a
    learned value as baseline and the reference model as pi_old: `kimi` is that with the group's mean.
    There is no ratio and no clip: the square pulls back to the policy that `r` is taken to, so
    groups of equal rewards have a gradient too (zero_variance "keep", or `method: dro`).
    """
    return Objective((Term(advantage=_less_log_ratio(beta)),))


def behaviour_policy(tokens: Tokens) -> Tensor:
    """log mu, the policy that wrote the token: the ratio holds what a correction would."""
    return tokens.behaviour


behaviour_policy.is_correction = True  # type: ignore[attr-defined]


def _clipped_log_ratio(tokens: Tokens, low: float, high: float, advantage: Tensor) -> Tensor:
    """log r, not above `high` where the advantage is above 0, not below -`low` elsewhere."""
    log_ratio = tokens.logp - tokens.old
    up = (advantage > 0).to(log_ratio.dtype)
    return up * log_ratio.clamp(max=high) + (1 - up) * log_ratio.clamp(min=-low)


def _geometric_mean(low: float, high: float) -> Denominator:
    def denominator(tokens: Tokens) -> Tensor:
        clipped = _clipped_log_ratio(tokens, low, high, sequence_credit(tokens))
        return tokens.logp - row_mean(clipped, tokens)

    return denominator


def _inside_log_clip(low: float, high: float) -> Mask:
    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        log_ratio = tokens.logp - tokens.old
        is_inside = _clipped_log_ratio(tokens, low, high, advantage) == log_ratio
        return is_inside.to(ratio.dtype)

    return mask


def _tapered(tokens: Tokens) -> Tensor:
    log_weight = row_sum(tokens.logp - tokens.old, tokens).clamp(max=0)
    down = (tokens.advantage < 0).to(log_weight.dtype)
    return tokens.logp - down * log_weight


def _near(divergence: str, low: float, high: float) -> Mask:
    """1 unless the token has moved beyond the bound in the direction that its advantage asks for."""

    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        probability = tokens.logp.exp()
        sampled = tokens.behaviour.exp()
        moved = probability - sampled
        distance = moved.abs() if divergence == "tv" else _binary_kl(tokens)
        too_high = (advantage > 0) & (moved > 0) & (distance > high)
        too_low = (advantage <= 0) & (moved < 0) & (distance > low)
        return 1 - (too_high | too_low).to(ratio.dtype)

    return mask


def _binary_kl(tokens: Tokens) -> Tensor:
    """KL(mu || pi) of the outcomes "this token" and "any other"."""
    sampled = tokens.behaviour.exp()
    others = (1 - sampled).clamp(min=1e-8)
    others_now = (1 - tokens.logp.exp()).clamp(min=1e-8)
    of_token = sampled * (tokens.behaviour - tokens.logp)
    return of_token + others * (others.log() - others_now.log())


def _less_log_ratio(beta: float, advantage: Advantage = credit) -> Advantage:
    """A - beta log(pi / pi_old) of the token."""

    @wrapping(advantage)
    def part(tokens: Tokens) -> Tensor:
        return advantage(tokens) - beta * (tokens.logp - tokens.old)

    return part
