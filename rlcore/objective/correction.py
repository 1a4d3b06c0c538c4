"""Corrections for an engine whose probabilities differ from the learner's for the same weights.

Three policies are involved: the engine's, which drew the tokens; the old_policy pi_old, the learner at the weights that drew them;
and pi, being trained. With delta = pi_old / pi_sampler per token, a correction multiplies the gradient of a token by a constant:

    token_truncate      min(delta, high)                       truncated importance sampling, TIS
    token_mask          delta if low <= delta <= high, else 0  IcePop
    sequence_truncate   min(D, high), D the product of delta over the sequence
    sequence_mask       D if low <= D <= high, else 0          TRL 1.16's default, with high 3
    geometric_mask      1 if low <= D^(1/length) <= high, else 0: a bound that does not tighten with length
    negative_mask       0 if A < 0 and the mean of log(pi_sampler / pi) over the sequence is above high, else 1 (DeepSeek-V3.2)

What a sequence's product means: a delta of 1.1 a token is 2.6 after 10 tokens and 13,781 after 100, so bounds on D drop long
answers first. `Tokens.old` decides that nothing is corrected twice: where the learner that trains is the one that sampled it is
the learner's own log-probability and delta is the mismatch; for samples of an older version it is what the engine recorded, so
that the ratio pi / pi_old holds the mismatch already and delta is 1. Objectives without a ratio (`reinforce`, `rloo`, `sft`) then
correct the mismatch of on_policy samples only.

The ratio that a clip looks at stays pi / pi_old.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rlcore.errors import RecipeError
from rlcore.objective.term import Objective, Term
from rlcore.objective.tokens import Tokens, row_length, row_sum, wrapping

if TYPE_CHECKING:
    from torch import Tensor

    Correction = Callable[[Tokens], Tensor]
    """Log of the weight of each token, [N]; -inf drops it."""


def _log_delta(tokens: Tokens) -> Tensor:
    return tokens.old - tokens.behaviour


def _log_product(tokens: Tokens) -> Tensor:
    return row_sum(_log_delta(tokens), tokens)


def _log_geometric(tokens: Tokens) -> Tensor:
    return _log_product(tokens) / row_length(tokens)


def _truncated(log_weight: Correction) -> Callable[..., Correction]:
    return lambda high: lambda tokens: log_weight(tokens).clamp(max=math.log(high))


def _banded(log_weight: Correction, *, weigh: bool = True) -> Callable[..., Correction]:
    def with_bounds(high: float, low: float = 0.0) -> Correction:
        def correction(tokens: Tokens) -> Tensor:
            log = log_weight(tokens)
            outside = (log.exp() < low) | (log.exp() > high)
            return (log if weigh else log * 0).masked_fill(outside, -math.inf)

        return correction

    return with_bounds


def _negatives(high: float) -> Correction:
    def correction(tokens: Tokens) -> Tensor:
        drift = row_sum(tokens.behaviour - tokens.logp, tokens) / row_length(tokens)
        return (drift * 0).masked_fill((tokens.advantage < 0) & (drift > high), -math.inf)

    return correction


BANDED: dict[str, Callable[..., Correction]] = {
    "token_mask": _banded(_log_delta),
    "sequence_mask": _banded(_log_product),
    "geometric_mask": _banded(_log_geometric, weigh=False),
}
KINDS: dict[str, Callable[..., Correction]] = BANDED | {
    "token_truncate": _truncated(_log_delta),
    "sequence_truncate": _truncated(_log_product),
    "negative_mask": _negatives,
}


def correct(base: Objective, kind: str, high: float, low: float | None = None) -> Objective:
    """`base` with the gradient of each token of each term multiplied by the correction `kind`, a constant.

    Raises `RecipeError` for a kind that does not exist, or bounds that would change the samples of a perfect engine.
    Example: `correct(objective("grpo"), "sequence_mask", high=3.0)`.
    """
    if kind not in KINDS:
        raise RecipeError(f"there is no correction {kind!r}; use one of {', '.join(KINDS)}")
    bounds = {"high": high} if low is None else {"high": high, "low": low}
    if low is not None and kind not in BANDED:
        raise RecipeError(f"the correction {kind!r} has no lower bound: give high alone")
    if kind != "negative_mask" and not (low or 0) <= 1 <= high:
        raise RecipeError(
            f"the bounds of the correction {kind!r} must enclose 1, the ratio of a perfect engine, got {bounds}"
        )
    weight = KINDS[kind](**bounds)
    return Objective(tuple(_corrected(term, weight) for term in base.terms))


def _corrected(term: Term, weight: Correction) -> Term:
    """In the unified form a correction is a shift of the denominator, towards the engine, and a mask of what it drops."""

    @wrapping(term.denominator, weight)
    def denominator(tokens: Tokens) -> Tensor:
        log = weight(tokens)
        return term.denominator(tokens) - log.masked_fill(log == -math.inf, 0)

    @wrapping(term.mask, term.denominator, weight)
    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        uncorrected = (tokens.logp - term.denominator(tokens)).clamp(max=80).exp()
        return term.mask(tokens, uncorrected, advantage) * (weight(tokens) > -math.inf)

    return replace(term, denominator=denominator, mask=mask)
