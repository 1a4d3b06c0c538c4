"""Distillation: a teacher's log-probabilities as advantages and likelihoods of a `Term`.

With d = log pi - log pi_T at a sampled token, p the teacher's distribution at the token, q the
policy's, and KL(a || b) = sum a (log a - log b):

    divergence   what is done                             expected gradient, on-policy
    reward       -d is added to the token's advantage     of KL(q || p), the reverse KL of each token
    implicit     log pi_T - log pi_base is added          of minus its mean: emulated fine-tuning's reward
    reverse_kl   KL(q || p) as a loss                     the same as `reward`, without sampling noise
    forward_kl   KL(p || q) as a loss                     of KL(p || q), the forward KL
    jsd          beta KL(p || m) + (1 - beta) KL(q || m)  with m = beta p + (1 - beta) q: GKD's JSD(beta)

The first two need the teacher's log-probability of the sampled token alone. The others sum over the
teacher's K most probable tokens and one more outcome, "any other token", with what is left of p and
of q. Merging outcomes never raises a KL, so this is a lower bound of the full one, it is the full one
at K = vocabulary, and at K = 1 it still has a gradient: with two tokens it is exact. (Renormalising p
and q over the K tokens instead would make everything 0 at K = 1.)

Each token's gradient is that of its own divergence: no divergence of later tokens is credited to
it (a discount of 0, as on-policy distillation and GKD do; MiniLLM, arXiv 2306.08543, adds them).
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from rlcore.errors import RecipeError
from rlcore.objective.parts import constant, credit, old_policy, token_mean
from rlcore.objective.term import Objective, Term
from rlcore.objective.tokens import Tokens, reads, wrapping

if TYPE_CHECKING:
    from torch import Tensor

    from rlcore.objective.parts import Advantage, Average, Likelihood

DIVERGENCES = ("reward", "implicit", "forward_kl", "reverse_kl", "jsd")
RESOLVED = {4: 2.0**-17, 8: 2.0**-46}
"""Least rest of the probability that float32 and float64 (4 and 8 bytes) tell from 0: 64 times their
round-off. A smaller rest counts as this, without a gradient."""


def towards_teacher(weight: float, advantage: Advantage = credit) -> Advantage:
    """A + weight (log pi_T - log pi)."""

    @wrapping(advantage)
    @reads("teacher")
    def part(tokens: Tokens) -> Tensor:
        return advantage(tokens) + weight * (tokens.teacher - tokens.logp)

    return part


def implicit_reward(weight: float, advantage: Advantage = credit) -> Advantage:
    """A + weight (log pi_T - log pi_base): EFT (arXiv 2310.12962), DPO's implicit reward.

    With a KL of 1 / weight to the model the stage began with, each token's optimum is that model
    times (pi_T / pi_base)^weight, renormalised: EFT's sampler.
    """

    @wrapping(advantage)
    @reads("teacher", "teacher_base")
    def part(tokens: Tokens) -> Tensor:
        return advantage(tokens) + weight * tokens.teacher

    return part


def divergence_of(kind: str, beta: float = 0.5) -> Likelihood:
    """The divergence of each token, [N], over the teacher's top tokens and the rest."""

    @reads("teacher_top")
    def part(tokens: Tokens) -> Tensor:
        log_p = _with_rest(tokens.teacher_top)
        log_q = _with_rest(tokens.top)
        if kind == "forward_kl":
            return _kl(log_p, log_q)
        if kind == "reverse_kl":
            return _kl(log_q, log_p)
        mixed_p = log_p + math.log(beta)
        mixed_q = log_q + math.log(1 - beta)
        log_m = mixed_p.logaddexp(mixed_q)
        return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)

    return part


def with_teacher(
    base: Objective, weight: float = 1.0, divergence: str = "reward", beta: float | None = None
) -> Objective:
    """`base` with a pull to the teacher: in its first term's advantage, or as a term "teacher"
    averaged as its first term is.

    beta: of `jsd` (default 0.5), between 0 and 1: towards 0 it is beta times the forward KL, towards
    1 (1 - beta) times the reverse KL. Raises `RecipeError`.
    """
    _check(weight, divergence, beta)
    first = base.terms[0]
    if divergence in ("reward", "implicit"):
        pull = towards_teacher if divergence == "reward" else implicit_reward
        return Objective(
            (replace(first, advantage=pull(weight, first.advantage)), *base.terms[1:])
        )
    term = _term(weight, divergence, beta, average=first.average, stream=first.stream)
    return base + Objective((term,))


def opd(
    weight: float = 1.0, divergence: str = "reward", beta: float | None = None
) -> Objective:
    """On-policy distillation (Lu et al., Thinking Machines 2025): token mean of -r (A + weight
    (log pi_T - log pi)) log pi, or another divergence of this module beside -r A log pi.

    `method: opd` sets A to 0 whatever the rewards (baseline "zero"); any other baseline learns from
    verifier and teacher together. r = pi / pi_old is a constant and not clipped.
    """
    return with_teacher(Objective((Term(denominator=old_policy),)), weight, divergence, beta)


def gkd(
    divergence: str = "jsd", beta: float | None = None, on_policy: float = 0.5
) -> Objective:
    """GKD (arXiv 2306.13649): the divergence on own completions and on demonstrations, token means.

    on_policy: GKD's lambda. The paper draws for each batch which of the two it trains on; here each
    step has both, own completions weighted by lambda and demonstrations by 1 - lambda: the same
    expected gradient. `forward_kl` on demonstrations alone is supervised knowledge distillation.
    With credit's demonstrations "all", or as `method: gkd`.
    """
    if not 0 < on_policy < 1:
        raise RecipeError(
            f"on_policy is {on_policy}, but must be between 0 and 1: for 1 use opd with the same divergence"
        )
    _check(1.0, divergence, beta)
    if divergence in ("reward", "implicit"):
        raise RecipeError(
            f"gkd needs a divergence that demonstrations have too: forward_kl, reverse_kl or jsd, not {divergence!r}"
        )
    own = _term(on_policy, divergence, beta)
    demonstrated = _term(1 - on_policy, divergence, beta, stream="demonstration")
    return Objective((own, replace(demonstrated, name="teacher_demonstration")))


def _check(weight: float, divergence: str, beta: float | None) -> None:
    if divergence not in DIVERGENCES:
        known = ", ".join(DIVERGENCES)
        raise RecipeError(f"there is no divergence {divergence!r}; use one of {known}")
    if weight <= 0:
        raise RecipeError(f"the teacher's weight is {weight}, but must be above 0")
    if beta is not None and divergence != "jsd":
        raise RecipeError(
            f"beta has no effect with the divergence {divergence!r}: it is for jsd"
        )
    if beta is not None and not 0 < beta < 1:
        raise RecipeError(
            f"beta is {beta}, but must be between 0 and 1: forward_kl and reverse_kl are the ends"
        )


def _term(
    weight: float,
    divergence: str,
    beta: float | None,
    *,
    average: Average = token_mean,
    stream: str = "policy",
) -> Term:
    return Term(
        advantage=constant(-weight),
        likelihood=divergence_of(divergence, 0.5 if beta is None else beta),
        average=average,
        stream=stream,
        name="teacher",
    )


def _with_rest(top: Tensor) -> Tensor:
    """[N, K] log-probabilities -> [N, K + 1]: the last is that of all other tokens."""
    least = RESOLVED.get(top.element_size(), RESOLVED[4])
    rest = (1 - top.exp().sum(1)).clamp(min=least)
    columns = top.new_zeros(len(top), top.shape[1] + 1)
    columns[:, :-1] = top
    columns[:, -1] = rest.log()
    return columns


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    return (log_a.exp() * (log_a - log_b)).sum(1)
