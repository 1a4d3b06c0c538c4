"""KL to the reference model: what its estimators descend, as likelihoods and advantages of a `Term`.

With d = log pi - log pi_ref at a sampled token, the estimators are k1 = d, k2 = d^2 / 2 and k3 = exp(-d) - 1 + d (Schulman,
"Approximating KL divergence"). k1 and k3 have the same mean, KL(pi || pi_ref), but differentiated as a loss on samples of pi they
pull to different places:

    kind       what is done                                       expected gradient, on-policy
    k1         k1 as a loss                                       0: only noise
    k2         k2 as a loss                                       of KL(pi || pi_ref), the reverse KL
    k3         k3 as a loss (GRPO's paper)                        of KL(pi_ref || pi), the forward KL
    ratio_k1   pi / pi_old k1, the ratio differentiated too       of the reverse KL
    ratio_k3   pi / pi_old k3, the ratio differentiated too       of the reverse KL (DeepSeek-V3.2, TRL 1.16's default)
    reward     k1 of this and all later tokens taken off A        of the reverse KL of whole sequences (PPO, REINFORCE++)

"reward" acts on the advantage that credit gave: it is not rescaled by a baseline's standard deviation or by whitening, as it is
in libraries that add it to the reward first. It changes the sign the clip looks at, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rlcore.errors import RecipeError
from rlcore.objective.parts import Tokens, constant, reads_reference, row_sum
from rlcore.objective.term import Objective, Term

if TYPE_CHECKING:
    from torch import Tensor

    from rlcore.objective.parts import Advantage, Likelihood


@reads_reference
def k1(tokens: Tokens) -> Tensor:
    """d = log pi - log pi_ref, [N]."""
    return tokens.logp - tokens.reference


@reads_reference
def k2(tokens: Tokens) -> Tensor:
    """d^2 / 2, [N]."""
    return k1(tokens) ** 2 / 2


@reads_reference
def k3(tokens: Tokens) -> Tensor:
    """exp(-d) - 1 + d, [N]; never negative."""
    d = k1(tokens)
    return (-d).exp() - 1 + d


def weighted(estimator: Likelihood) -> Likelihood:
    """pi / pi_old times an estimator, differentiated through both."""
    return reads_reference(lambda tokens: (tokens.logp - tokens.old).exp() * estimator(tokens))


ESTIMATORS: dict[str, Callable[[Tokens], Tensor]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "ratio_k1": weighted(k1),
    "ratio_k3": weighted(k3),
}


def less_kl_to_go(beta: float, advantage: Advantage) -> Advantage:
    """A_t - beta sum over s >= t in the token's sequence of d_s, the log-ratio k1 of what is still to come."""

    def part(tokens: Tokens) -> Tensor:
        d = k1(tokens).double()
        order = tokens.row.argsort(stable=True)
        before = d.new_zeros(d.shape).index_copy(
            0, order, d[order].cumsum(0) - d[order]
        )  # in this and all earlier rows
        through = d.new_zeros(tokens.rows).index_add(0, tokens.row, d).cumsum(0)
        return advantage(tokens) - beta * (through[tokens.row] - before).to(tokens.logp.dtype)

    return reads_reference(part)


def less_sequence_kl(tau: float, advantage: Advantage) -> Advantage:
    """A - tau log(pi / pi_ref) of the token's whole sequence: the error whose square Kimi k1.5 minimises."""
    return reads_reference(lambda tokens: advantage(tokens) - tau * row_sum(k1(tokens), tokens))


def with_kl(base: Objective, beta: float, kind: str) -> Objective:
    """`base` with beta times the KL to the reference, averaged as its first term is; see the table above for `kind`.

    "reward" changes the first term; the others add a term "kl", whose value in the report is beta times the estimate itself.
    Raises `RecipeError` for an unknown kind.
    """
    first = base.terms[0]
    if kind == "reward":
        return Objective(
            (replace(first, advantage=less_kl_to_go(beta, first.advantage)), *base.terms[1:])
        )
    if kind not in ESTIMATORS:
        raise RecipeError(
            f"there is no kl_kind {kind!r}; use one of {', '.join(ESTIMATORS)} or reward"
        )
    pull = Term(
        advantage=constant(-beta),
        likelihood=ESTIMATORS[kind],
        average=first.average,
        stream=first.stream,
        name="kl",
    )
    return base + Objective((pull,))
