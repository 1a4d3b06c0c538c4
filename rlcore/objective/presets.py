"""Published objectives as expressions of parts. A recipe names one: `objective("dapo", clip_high=0.3)`.

A preset says how tokens are weighed once they have advantages; which advantages is the business of `rlcore.credit` (GRPO's
divides by the group's standard deviation, Dr.GRPO's does not). In all formulas r = pi / pi_old per token, A the token's
advantage, N the sequences of the optimiser step, n_i the trained tokens of sequence i; losses are minimised. Counts are those of
the whole step, over all micro-batches and processes. What every preset can take besides its own parameters (a KL, an entropy
bonus, a correction of the engine, ...) is said at `objective`. docs/objectives.md has all of this as a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rlcore.errors import RecipeError
from rlcore.objective.correction import correct
from rlcore.objective.kl import less_sequence_kl, with_kl
from rlcore.objective.parts import (
    both,
    capped,
    clip,
    constant,
    credit,
    dual,
    entropy,
    exponential,
    fixed_length,
    gamma_weighted,
    old_policy,
    sequence_credit,
    sequence_mean,
    sequence_old_policy,
    sequence_sum,
    shaped,
    soft,
    unit,
)
from rlcore.objective.term import Objective, Term
from rlcore.plugin import check_params, check_type, find, signature


def grpo(clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """GRPO (arXiv 2402.03300): -1/N sum_i 1/n_i sum_t min(r A, clip(r, 1 - clip_low, 1 + clip_high) A).

    The paper adds kl = 0.04 of kind "k3", differentiated as a loss; TRL 1.16's default weighs it by r (kind "ratio_k3").
    """
    return Objective(
        (Term(mask=clip(clip_low, clip_high), denominator=old_policy, average=sequence_mean),)
    )


def dapo(clip_low: float = 0.2, clip_high: float = 0.28) -> Objective:
    """DAPO (arXiv 2503.14476): GRPO's clipped ratio with a higher upper bound, averaged over all tokens of the step.

    TRL's "bnpo" divides by the tokens of each micro-batch instead, so that its gradient depends on how the step was cut: there is
    no such preset here. A step of one micro-batch in one process has bnpo's gradient with clip_high = clip_low.
    """
    return Objective((Term(mask=clip(clip_low, clip_high), denominator=old_policy),))


def dr_grpo(max_tokens: int, clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """Dr.GRPO (arXiv 2503.20783): GRPO's clipped ratio summed over tokens and divided by N * max_tokens, a constant.

    Division by N as TRL does; verl leaves the N out, which is a factor N in the learning rate. Use with baseline "mean".
    """
    return Objective(
        (
            Term(
                mask=clip(clip_low, clip_high),
                denominator=old_policy,
                average=fixed_length(max_tokens),
            ),
        )
    )


def gspo(clip_low: float = 3e-4, clip_high: float = 4e-4) -> Objective:
    """GSPO (arXiv 2507.18071): -1/N sum_i min(s_i A_i, clip(s_i) A_i), s_i the geometric mean of the sequence's ratios.

    A_i is the mean of the sequence's advantages. TRL: importance_sampling_level "sequence" with loss_type "grpo".
    """
    shape = {
        "denominator": sequence_old_policy,
        "advantage": sequence_credit,
        "average": sequence_mean,
    }
    return Objective((Term(mask=clip(clip_low, clip_high), **shape),))


def gspo_token(clip_low: float = 3e-4, clip_high: float = 4e-4) -> Objective:
    """GSPO-token (arXiv 2507.18071, section 4.3): s_i as in `gspo`, but each token has its own advantage; verl's form of GSPO.

    The same as `gspo` where credit is one number a sequence.
    """
    return Objective(
        (
            Term(
                mask=clip(clip_low, clip_high),
                denominator=sequence_old_policy,
                average=sequence_mean,
            ),
        )
    )


def luspo(clip_low: float = 3e-4, clip_high: float = 4e-4) -> Objective:
    """LUSPO (arXiv 2602.05261): -1/N sum_i n_i min(s_i A_i, clip(s_i) A_i): GSPO times the length, so that length has no bias."""
    shape = {
        "denominator": sequence_old_policy,
        "advantage": sequence_credit,
        "average": sequence_sum,
    }
    return Objective((Term(mask=clip(clip_low, clip_high), **shape),))


def cispo(cap: float = 5.0) -> Objective:
    """CISPO (arXiv 2506.13585): token mean of -min(r, cap) A log pi, the minimum held constant: no token is masked.

    `cap` is the largest ratio itself, as TRL's epsilon_high; open-instruct and verl write 1 + epsilon. No lower bound.
    """
    return Objective((Term(denominator=capped(cap)),))


def sapo(positive: float = 1.0, negative: float = 1.05) -> Objective:
    """SAPO (arXiv 2511.20347): -1/N sum_i 1/n_i sum_t 4/tau sigmoid(tau (r - 1)) A, tau = `positive` if A > 0 else `negative`."""
    return Objective(
        (Term(mask=soft(positive, negative), denominator=old_policy, average=sequence_mean),)
    )


def vespo(
    k_pos: float = 2.0, lambda_pos: float = 3.0, k_neg: float = 3.0, lambda_neg: float = 2.0
) -> Objective:
    """VESPO (arXiv 2602.10693): token mean of -phi(w) A log pi, phi(w) = w^k e^(lambda (1 - w)), w the ratio of the sequence.

    phi is a constant; k_pos and lambda_pos hold where A >= 0. A `correction` multiplies phi; TRL lets it into w.
    """
    return Objective((Term(denominator=gamma_weighted((k_pos, lambda_pos), (k_neg, lambda_neg))),))


def ppo(clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """PPO's policy loss (arXiv 1707.06347): token mean of -min(r A, clip(r) A), for credit that differs from token to token."""
    return Objective((Term(mask=clip(clip_low, clip_high), denominator=old_policy),))


def reinforce_pp(clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """REINFORCE++ (arXiv 2501.03262): PPO's loss with baseline "global"; the paper's "-baseline" form takes "mean_global".

    The paper's KL is kl_kind "reward" for the first, "k2" for the second. Here whitening does not rescale the former.
    """
    return ppo(clip_low, clip_high)


def rloo() -> Objective:
    """RLOO (arXiv 2402.14740): -1/N sum_i A_i log pi(sequence i), for one update a batch. Use with baseline "leave_one_out".

    No ratio and no clip: the paper's estimator. TRL's RLOO clips the sequence's probability ratio, the same gradient at ratio 1:
    Term(mask=clip(0.2, 0.2), denominator=sequence_product, average=sequence_sum).
    """
    return Objective((Term(average=sequence_sum),))


def reinforce() -> Objective:
    """REINFORCE (Williams 1992) as a token mean: -1/(all tokens) sum A log pi, no ratio and no clip."""
    return Objective((Term(),))


def kimi(tau: float = 0.1) -> Objective:
    """Kimi k1.5 (arXiv 2501.12599): 1/N sum_i [-A_i log pi(i) + tau/2 log(pi(i) / pi_ref(i))^2], i a whole sequence.

    The squared error (A - tau log(pi / pi_ref))^2 over 2 tau. A = r - mean(r): use baseline "mean" and zero_variance "keep".
    pi_ref is the model the stage began with, so an iteration of the paper is a stage: the optimiser starts afresh in each, too.
    """
    return Objective((Term(advantage=less_sequence_kl(tau, credit), average=sequence_sum),))


def awr(beta: float = 1.0, cap: float = 20.0) -> Objective:
    """Advantage-weighted regression (arXiv 1910.00177): token mean of -min(exp(A / beta), cap) log pi.

    Weights are not normalised; for weights of mean 1 over the step use `reinforce` with credit's `exponential`. Large beta is SFT
    on everything, small beta on the best of a group only.
    """
    return Objective((Term(advantage=exponential(beta, cap)),))


def sft(stream: str = "policy") -> Objective:
    """Negative log-likelihood of the trained tokens of `stream`, averaged over all of them; advantages are not read."""
    return Objective((Term(advantage=constant(1.0), stream=stream, name="sft"),))


def dft(stream: str = "policy") -> Objective:
    """DFT (arXiv 2508.05629): SFT with each token weighed by its own probability: the gradient of -pi instead of -log pi."""
    return Objective((Term(advantage=constant(1.0), denominator=unit, stream=stream, name="dft"),))


def luffy(gamma: float = 0.1, clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """LUFFY (arXiv 2504.14945): PPO's loss for own answers and -f(pi) A, f(p) = p / (p + gamma), for demonstrations.

    Use with credit's demonstrations "mixed", whose group statistics count the demonstration too. Each of the two is averaged over
    its own tokens; the paper divides both by the tokens of both.
    """
    guided = Term(
        mask=shaped(gamma), denominator=unit, stream="demonstration", name="demonstration"
    )
    return ppo(clip_low, clip_high) + Objective((guided,))


def hpt(sft_weight: float = 1.0, clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """HPT (arXiv 2509.04419): GRPO on the answers to tasks the policy solves, SFT on demonstrations of the others.

    Use with credit's demonstrations "gated", which decides task by task. As in the paper; the paper's script has no clip and
    divides by neither standard deviation nor length (`dr_grpo` without its clip).
    """
    imitate = Term(
        advantage=constant(1.0), weight=sft_weight, stream="demonstration", name="demonstration"
    )
    return grpo(clip_low, clip_high) + Objective((imitate,))


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
        awr,
        sft,
        dft,
        luffy,
        hpt,
    )
}


def find_preset(name: str) -> Callable[..., Objective]:
    """The preset called `name`, or the function at `package.module:function` or `file.py:function`. Raises `RecipeError`."""
    return (
        PRESETS[name]
        if name in PRESETS
        else find(name, dict.fromkeys(PRESETS, ""), what="objective")
    )


def objective(
    name: str,
    *,
    kl: float = 0.0,
    kl_kind: str | None = None,
    entropy: float = 0.0,
    next_token: float = 0.0,
    dual_clip: float | None = None,
    correction: str | Mapping[str, Any] | None = None,
    **params: Any,
) -> Objective:
    """The preset `name`, or one of your own by its place, with its parameters, and what any preset can take:

        kl, kl_kind   that much KL (k3) to the model the stage began with, see `rlcore.objective.kl`; 0 keeps no reference model
        entropy       that much entropy bonus, a mean over the tokens of the step whatever the preset's average
        next_token    that much next-token loss on samples of stream "text" (token mean; reinforcement mid-training, 2509.24375)
        dual_clip     no gradient where A < 0 and r is above this (arXiv 1912.09729; TRL's delta)
        correction    {kind, high, low} of `rlcore.objective.correction`, on the preset's own terms

    Raises `RecipeError` for an unknown name, parameter or kind, or a parameter that is missing.
    """
    for key, value in {
        "kl": kl,
        "entropy": entropy,
        "next_token": next_token,
        "dual_clip": dual_clip,
    }.items():
        check_type(f"objective {name!r}", key, value, float | None)
        if value is not None and value < 0:
            raise RecipeError(f"objective {name!r}: {key} is {value}, but must not be below 0")
    made = _call(
        find_preset(name), params, f"objective {name!r}", others=signature(objective).parameters
    )
    if dual_clip is not None:
        made = Objective(
            tuple(replace(term, mask=both(term.mask, dual(dual_clip))) for term in made.terms)
        )
    if correction is not None:
        made = _call(
            correct,
            {"kind": correction} if isinstance(correction, str) else correction,
            "the correction",
            base=made,
        )
    if not kl and kl_kind is not None:
        raise RecipeError(
            f"objective {name!r}: kl_kind is {kl_kind!r}, but kl is 0: say how much, for example kl: 0.001"
        )
    if kl:
        made = with_kl(made, kl, kl_kind or "k3")
    if entropy:
        made += _entropy_bonus(entropy, made.terms[0].stream)
    if next_token:
        made += Objective((Term(advantage=constant(next_token), stream="text", name="next_token"),))
    return made


def _entropy_bonus(weight: float, stream: str) -> Objective:
    return Objective(
        (Term(advantage=constant(weight), likelihood=entropy, stream=stream, name="entropy"),)
    )


def _call(
    part: Callable[..., Objective],
    params: Mapping[str, Any],
    owner: str,
    others: Any = (),
    **given: Any,
) -> Objective:
    """`part` with `params` from a recipe, whose keys are checked first."""
    known = {key: value for key, value in signature(part).parameters.items() if key not in given}
    check_params(
        params, known, owner=owner, also=[key for key in others if key not in ("name", "params")]
    )
    made = part(**params, **given)
    if not isinstance(made, Objective):
        raise RecipeError(f"{owner} must give an Objective, not a {type(made).__name__}")
    return made
