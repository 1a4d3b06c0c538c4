"""Presets that raise the likelihood of given text, alone or beside a policy gradient."""

from __future__ import annotations

from rlcore.objective.parts import constant, exponential, shaped, unit, unlikely, where
from rlcore.objective.policy_gradient import dapo, grpo, ppo
from rlcore.objective.term import Objective, Term


def awr(beta: float = 1.0, cap: float = 20.0) -> Objective:
    """Advantage-weighted regression (arXiv 1910.00177): token mean of -min(exp(A / beta), cap) log
    pi.

    Weights are not normalised; for weights of mean 1 over the step use `reinforce` with credit's
    `exponential`. Large beta is SFT on everything, small beta on the best of a group only.
    """
    return Objective((Term(advantage=exponential(beta, cap)),))


def sft(stream: str = "policy") -> Objective:
    """Negative log-likelihood of the trained tokens of `stream`, averaged over all of them.

    Advantages are not read.
    """
    return Objective((Term(advantage=constant(1.0), stream=stream, name="sft"),))


def unlikelihood(alpha: float = 1.0) -> Objective:
    """Unlikelihood training (arXiv 1908.04319, 2302.08582): -log pi where the advantage is above 0, -alpha log(1 - pi) where
    it is below, averaged over all trained tokens.

    alpha: weight of what is pushed down; at 0 it is left out of the loss, and still counts in the average. The size of
    advantages is not read.
    """
    likely = Term(advantage=where(1), name="likely")
    return Objective(
        (likely, Term(advantage=where(-1), likelihood=unlikely, weight=alpha, name="unlikely"))
    )


def dft(stream: str = "policy") -> Objective:
    """DFT (arXiv 2508.05629): SFT with each token weighed by its own probability.

    The gradient of -pi instead of -log pi.
    """
    return Objective(
        (Term(advantage=constant(1.0), denominator=unit, stream=stream, name="dft"),)
    )


def luffy(gamma: float = 0.1, clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """LUFFY (arXiv 2504.14945): PPO's loss for own completions, -f(pi) A for demonstrations.

    f(p) = p / (p + gamma). Use with credit's demonstrations "mixed", whose group statistics count
    the demonstration too. Each of the two is averaged over its own tokens; the paper divides both
    by the tokens of both.
    """
    guided = Term(
        mask=shaped(gamma),
        denominator=unit,
        stream="demonstration",
        name="demonstration",
    )
    return ppo(clip_low, clip_high) + Objective((guided,))


def hpt(sft_weight: float = 1.0, clip_low: float = 0.2, clip_high: float = 0.2) -> Objective:
    """HPT (arXiv 2509.04419): GRPO on tasks that the policy solves, SFT on demonstrations of the
    others.

    Use with credit's demonstrations "gated", which decides task by task. As in the paper; the
    paper's script has no clip and divides by neither standard deviation nor length (`dr_grpo`
    without its clip).
    """
    return grpo(clip_low, clip_high) + _imitate(sft_weight)


def vapo(imitation: float = 0.1, clip_low: float = 0.2, clip_high: float = 0.28) -> Objective:
    """VAPO (arXiv 2504.05118, section 4.3): token mean of -min(r A, clip(r) A), plus imitation times that
    of -log pi over the correct completions.

    Use with credit's demonstrations "solved", which gives each correct completion once more as a
    demonstration. imitation: mu in the paper, 0.1.
    """
    return dapo(clip_low, clip_high) + _imitate(imitation)


def _imitate(weight: float) -> Objective:
    """Token mean of -weight log pi over demonstrations."""
    term = Term(
        advantage=constant(1.0),
        weight=weight,
        stream="demonstration",
        name="demonstration",
    )
    return Objective((term,))
