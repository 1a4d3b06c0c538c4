"""Corrections for tokens that were written by another policy than the one the ratio is taken to.

Three policies are involved. The behaviour policy wrote the tokens: the engine, whose probabilities differ
from the learner's even for the same weights, and whose weights may be some versions old. The old policy
pi_old is the denominator of the importance ratio pi / pi_old. pi is being trained. The gap from pi_old to pi
is the ratio's business; the gap from behaviour to pi_old is the correction's. With
delta = pi_old / behaviour per token, a correction multiplies the gradient of a token by a constant:

    token_truncate      min(delta, high)                       truncated importance sampling, TIS
    token_mask          delta if low <= delta <= high, else 0  IcePop
    sequence_truncate   min(D, high), D the product of delta over the sequence
    sequence_mask       D if low <= D <= high, else 0          TRL 1.16's default, with high 3
    geometric_mask      1 if low <= D^(1/length) <= high, else 0: a bound that does not tighten with length
    negative_mask       0 if A < 0 and the mean of log(behaviour / pi) over the sequence is above high,
                        else 1 (DeepSeek-V3.2)

What a sequence's product means: a delta of 1.1 a token is 2.6 after 10 tokens and 13,781 after 100, so
bounds on D drop long completions first.

Nothing is corrected twice, because delta and the ratio meet at pi_old (`Tokens.old`):

    first update, tokens of the current version   pi_old = pi             delta is the engine's mismatch
    else, `old_logprobs: trainer`                 pi_old is recomputed    delta is mismatch and staleness
    else, `old_logprobs: engine`                  pi_old = behaviour      delta is 1, the ratio holds everything

In the last row, objectives without a ratio (`reinforce`, `rloo`, `sft`) correct nothing but the first update
on tokens of the current version.

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


def require_correction(
    aim: Objective, *, old_logprobs: str, max_staleness: int, key: str = "max_staleness"
) -> None:
    """Raises `RecipeError` where stale tokens would be trained as if the old policy had written them.

    With recomputed `old_logprobs` the ratio leaves out the gap from the behaviour policy to the old one, which stale tokens
    always have, so the objective needs a correction. key: of the recipe, that sets how old tokens get.
    """
    compares_stale = getattr(aim.select, "compares_stale", False)
    if compares_stale and (old_logprobs != "trainer" or max_staleness == 0):
        raise RecipeError(
            "the objective leaves out stale tokens by how far the policy has moved from the one that wrote them, and so "
            "needs max_staleness above 0 and old_logprobs: trainer: set both, or use another objective"
        )
    if old_logprobs != "trainer" or max_staleness == 0:
        return
    if any(getattr(term.denominator, "is_correction", False) for term in aim.terms):
        return
    raise RecipeError(
        f"{key} is {max_staleness} and old_logprobs is trainer, so the objective needs a correction of stale tokens: "
        "add for example correction: {kind: token_truncate, high: 2.0} to it, or set old_logprobs: engine"
    )


def _log_delta(tokens: Tokens) -> Tensor:
    return tokens.old - tokens.behaviour


def _log_product(tokens: Tokens) -> Tensor:
    return row_sum(_log_delta(tokens), tokens)


def _log_geometric(tokens: Tokens) -> Tensor:
    return _log_product(tokens) / row_length(tokens)


def _truncated(log_weight: Correction) -> Callable[..., Correction]:
    """min(weight, high)."""

    def with_bound(high: float) -> Correction:
        def correction(tokens: Tokens) -> Tensor:
            return log_weight(tokens).clamp(max=math.log(high))

        return correction

    return with_bound


def _banded(log_weight: Correction, *, keep_weight: bool = True) -> Callable[..., Correction]:
    """The weight (or 1, with `keep_weight` False) inside [low, high], 0 outside."""

    def with_bounds(high: float, low: float = 0.0) -> Correction:
        def correction(tokens: Tokens) -> Tensor:
            log = log_weight(tokens)
            ratio = log.exp()
            outside = (ratio < low) | (ratio > high)
            log_inside = log if keep_weight else log * 0
            return log_inside.masked_fill(outside, -math.inf)

        return correction

    return with_bounds


def _negatives(high: float) -> Correction:
    def correction(tokens: Tokens) -> Tensor:
        drift = row_sum(tokens.behaviour - tokens.logp, tokens) / row_length(tokens)
        dropped = (tokens.advantage < 0) & (drift > high)
        return (drift * 0).masked_fill(dropped, -math.inf)

    return correction


BANDED: dict[str, Callable[..., Correction]] = {
    "token_mask": _banded(_log_delta),
    "sequence_mask": _banded(_log_product),
    "geometric_mask": _banded(_log_geometric, keep_weight=False),
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
    return replace(base, terms=tuple(_corrected(term, weight) for term in base.terms))


def _corrected(term: Term, weight: Correction) -> Term:
    """In the unified form a correction shifts the denominator towards the behaviour policy and masks what it drops."""

    @wrapping(term.denominator, weight)
    def denominator(tokens: Tokens) -> Tensor:
        log = weight(tokens)
        return term.denominator(tokens) - log.masked_fill(log == -math.inf, 0)

    @wrapping(term.mask, term.denominator, weight)
    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        uncorrected = (tokens.logp - term.denominator(tokens)).clamp(max=80).exp()
        return term.mask(tokens, uncorrected, advantage) * (weight(tokens) > -math.inf)

    denominator.is_correction = True  # type: ignore[attr-defined]
    return replace(term, denominator=denominator, mask=mask)
