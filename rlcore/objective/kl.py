"""KL to the reference model, as likelihoods and advantages of a `Term`.

With d = log pi - log pi_ref at a sampled token, the estimators are k1 = d, k2 = d^2 / 2 and
k3 = exp(-d) - 1 + d (Schulman, "Approximating KL divergence"). k1 and k3 have the same mean,
KL(pi || pi_ref), but differentiated as a loss on samples of pi they pull to different places:

    kind       what is done                                  expected gradient, on-policy
    k1         k1 as a loss                                  0: only noise
    k2         k2 as a loss                                  of KL(pi || pi_ref), the reverse KL
    k3         k3 as a loss (GRPO's paper)                   of KL(pi_ref || pi), the forward KL
    ratio_k1   pi / pi_old k1, both factors differentiated   of the reverse KL
    ratio_k3   pi / pi_old k3, both factors differentiated   of the reverse KL (DeepSeek-V3.2, TRL)
    reward     k1 of this and all later tokens taken off A   of the reverse KL of whole sequences
                                                             (PPO, REINFORCE++)

"reward" acts on the advantage that credit gave: it is not rescaled by a baseline's standard
deviation or by whitening, as it is in libraries that add it to the reward first. It changes the
sign that the clip looks at, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rlcore.errors import RecipeError
from rlcore.objective.parts import constant
from rlcore.objective.term import Objective, Term
from rlcore.objective.tokens import Tokens, reads_reference, wrapping

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

    @wrapping(estimator)
    def part(tokens: Tokens) -> Tensor:
        ratio = (tokens.logp - tokens.old).exp()
        return ratio * estimator(tokens)

    return part


ESTIMATORS: dict[str, Callable[[Tokens], Tensor]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
    "ratio_k1": weighted(k1),
    "ratio_k3": weighted(k3),
}


def less_kl_to_go(beta: float, advantage: Advantage) -> Advantage:
    """A_t - beta * (sum of d_s over s >= t in the token's sequence).

    The sum is the log-ratio k1 of what is still to come.
    """

    @reads_reference
    def part(tokens: Tokens) -> Tensor:
        d = k1(tokens).double()
        # Cumulative sums over all rows, one row after the other: what is still to come in a row is
        # the sum through the row's end minus the sum before the token.
        order = tokens.row.argsort(stable=True)
        sorted_d = d[order]
        before = d.new_zeros(d.shape)
        before = before.index_copy(0, order, sorted_d.cumsum(0) - sorted_d)
        row_sums = d.new_zeros(tokens.rows).index_add(0, tokens.row, d)
        through_row = row_sums.cumsum(0)[tokens.row]
        to_go = (through_row - before).to(tokens.logp.dtype)
        return advantage(tokens) - beta * to_go

    return part


def with_kl(base: Objective, beta: float, kind: str) -> Objective:
    """`base` with beta times the KL to the reference, averaged as its first term is.

    The table above explains `kind`. "reward" changes the first term; the others add a term "kl",
    whose value in the report is beta times the estimate itself. Raises `RecipeError` for an unknown
    kind.
    """
    first = base.terms[0]
    if kind == "reward":
        changed = replace(first, advantage=less_kl_to_go(beta, first.advantage))
        return Objective((changed, *base.terms[1:]))
    if kind not in ESTIMATORS:
        known = ", ".join(ESTIMATORS)
        raise RecipeError(f"there is no kl_kind {kind!r}; use one of {known} or reward")
    pull = Term(
        advantage=constant(-beta),
        likelihood=ESTIMATORS[kind],
        average=first.average,
        stream=first.stream,
        name="kl",
    )
    return base + Objective((pull,))
