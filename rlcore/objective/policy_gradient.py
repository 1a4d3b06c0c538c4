"""Presets that learn from the policy's own completions: GRPO and its relatives.

In all formulas r = pi / pi_old per token, A the token's advantage, N the sequences of the update,
n_i the trained tokens of sequence i; losses are minimised. Counts are those of the whole update,
over all micro-batches and processes.
"""

from __future__ import annotations

from rlcore.objective.parts import (
    capped,
    clip,
    fixed_length,
    gamma_weighted,
    less_sequence_log_ratio,
    old_policy,
    sequence_credit,
    sequence_mean,
    sequence_old_policy,
    sequence_sum,
    soft,
)
from rlcore.objective.term import Objective, Term


def grpo(clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """GRPO (arXiv 2402.03300): -1/N sum_i 1/n_i sum_t min(r A, clip(r, 1 - low, 1 + high) A).

    The paper adds kl = 0.04 of kind "k3", differentiated as a loss; TRL 1.16's default weighs it by
    r (kind "ratio_k3").
    """
    term = Term(
        mask=clip(clip_low, clip_high),
        denominator=old_policy,
        average=sequence_mean,
    )
    return Objective((term,))


def dapo(clip_low: float = 0.2, clip_high: float = 0.28) -> Objective:
    """DAPO (arXiv 2503.14476): GRPO's clipped ratio with a higher upper bound, averaged over all
    tokens.

    TRL's "bnpo" divides by the tokens of each micro-batch instead, so that its gradient depends on
    how the update was cut: there is no such preset here. An update of one micro-batch in one
    process has bnpo's gradient with clip_high = clip_low.
    """
    term = Term(mask=clip(clip_low, clip_high), denominator=old_policy)
    return Objective((term,))


def dr_grpo(max_tokens: int, clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """Dr.GRPO (arXiv 2503.20783): GRPO's clipped ratio summed over tokens and divided by N *
    max_tokens.

    Division by N as in TRL; verl leaves the N out, which is a factor N in the learning rate. Use
    with baseline "mean", or as `method: dr_grpo`.
    """
    term = Term(
        mask=clip(clip_low, clip_high),
        denominator=old_policy,
        average=fixed_length(max_tokens),
    )
    return Objective((term,))


def gspo(clip_low: float = 3e-4, clip_high: float = 4e-4) -> Objective:
    """GSPO (arXiv 2507.18071): -1/N sum_i min(s_i A_i, clip(s_i) A_i).

    s_i is the geometric mean of the sequence's ratios, A_i the mean of its advantages. In TRL:
    importance_sampling_level "sequence" with loss_type "grpo".
    """
    term = Term(
        mask=clip(clip_low, clip_high),
        denominator=sequence_old_policy,
        advantage=sequence_credit,
        average=sequence_mean,
    )
    return Objective((term,))


def gspo_token(clip_low: float = 3e-4, clip_high: float = 4e-4) -> Objective:
    """GSPO-token (arXiv 2507.18071, section 4.3): s_i as in `gspo`, but each token has its own
    advantage.

    This is verl's form of GSPO. The same as `gspo` where credit is one number a sequence.
    """
    term = Term(
        mask=clip(clip_low, clip_high),
        denominator=sequence_old_policy,
        average=sequence_mean,
    )
    return Objective((term,))


def luspo(clip_low: float = 3e-4, clip_high: float = 4e-4) -> Objective:
    """LUSPO (arXiv 2602.05261): -1/N sum_i n_i min(s_i A_i, clip(s_i) A_i).

    GSPO times the length, so that length has no bias.
    """
    term = Term(
        mask=clip(clip_low, clip_high),
        denominator=sequence_old_policy,
        advantage=sequence_credit,
        average=sequence_sum,
    )
    return Objective((term,))


def cispo(cap: float = 5.0) -> Objective:
    """CISPO (arXiv 2506.13585): token mean of -min(r, cap) A log pi, the minimum held constant.

    No token is masked. `cap` is the largest ratio itself, as TRL's epsilon_high; open-instruct and
    verl write 1 + epsilon. No lower bound.
    """
    return Objective((Term(denominator=capped(cap)),))


def sapo(positive: float = 1.0, negative: float = 1.05) -> Objective:
    """SAPO (arXiv 2511.20347): -1/N sum_i 1/n_i sum_t 4/tau sigmoid(tau (r - 1)) A.

    tau is `positive` if A > 0, else `negative`.
    """
    term = Term(
        mask=soft(positive, negative),
        denominator=old_policy,
        average=sequence_mean,
    )
    return Objective((term,))


def vespo(
    k_pos: float = 2.0, lambda_pos: float = 3.0, k_neg: float = 3.0, lambda_neg: float = 2.0
) -> Objective:
    """VESPO (arXiv 2602.10693): token mean of -phi(w) A log pi, phi(w) = w^k e^(lambda (1 - w)).

    w is the ratio of the sequence; phi is a constant; k_pos and lambda_pos hold where A >= 0. A
    `correction` multiplies phi; TRL lets it into w.
    """
    weight = gamma_weighted((k_pos, lambda_pos), (k_neg, lambda_neg))
    return Objective((Term(denominator=weight),))


def ppo(clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """PPO's policy loss (arXiv 1707.06347): token mean of -min(r A, clip(r) A).

    For credit that differs from token to token.
    """
    term = Term(mask=clip(clip_low, clip_high), denominator=old_policy)
    return Objective((term,))


def reinforce_pp(clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """REINFORCE++ (arXiv 2501.03262): PPO's loss with baseline "global"; "-baseline" takes
    "mean_global".

    The paper's KL is kl_kind "reward" for the first, "k2" for the second. Here whitening does not
    rescale the former.
    """
    return ppo(clip_low, clip_high)


def rloo() -> Objective:
    """RLOO (arXiv 2402.14740): -1/N sum_i A_i log pi(sequence i), for one update a batch.

    Use with baseline "leave_one_out", or as `method: rloo`. No ratio and no clip: the paper's
    estimator. TRL's RLOO clips the sequence's probability ratio, the same gradient at ratio 1:
    Term(mask=clip(0.2, 0.2), denominator=sequence_product, average=sequence_sum).
    """
    return Objective((Term(average=sequence_sum),))


def reinforce() -> Objective:
    """REINFORCE (Williams 1992) as a token mean: -1/(all tokens) sum A log pi.

    No ratio and no clip.
    """
    return Objective((Term(),))


def kimi(tau: float = 0.1) -> Objective:
    """Kimi k1.5 (arXiv 2501.12599): 1/N sum_i [-A_i log pi(i) + tau/2 log(pi(i) / pi_old(i))^2].

    i is a whole sequence: the squared error (A - tau log(pi / pi_old))^2 over 2 tau. A = r -
    mean(r): use baseline "mean" and zero_variance "keep", or `method: kimi`. The regulariser pulls
    to the policy of the previous iteration, which drew the samples (`Tokens.old`), so no reference
    model is kept and the first update of a step is the gradient of -A log pi. The paper also
    resets the optimiser in every iteration; that is not done here.
    """
    term = Term(advantage=less_sequence_log_ratio(tau), average=sequence_sum)
    return Objective((term,))
