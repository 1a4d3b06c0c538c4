"""The parts of a `Term`, as small functions on flat vectors over the trained tokens of one micro-batch, [N].

Following "Towards a Unified View of LLM Post-Training" (arXiv 2509.04419), the gradient of every objective here is

    grad L = - sum_n  weight * mask_n * exp(logp_n - denominator_n) * advantage_n * average_n * grad likelihood_n

where everything in front of `grad likelihood` is a constant. A part is a plain function (or a function that returns one, where it
has parameters) and sees detached log-probabilities; only a likelihood sees the live ones.

    mask         (tokens, ratio, advantage) -> [N], >= 0         which tokens keep their gradient: 1 all of it, 0 none
    denominator  (tokens) -> [N]                                 log-probability under the policy the ratio is taken to
    advantage    (tokens) -> [N]                                 what pulls the token's probability up (> 0) or down (< 0)
    likelihood   (tokens) -> [N], differentiable                 what is differentiated
    average      (tokens, counts) -> [N] or a number             share of each token in the sum

There are no padded shapes: sums over a sequence go through `tokens.row`. No torch import either: tensor methods do.
Parts that read the reference model are in `rlcore.objective.kl`, corrections of an engine that disagrees with the learner in
`rlcore.objective.correction`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from rlcore.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor


class Tokens(NamedTuple):
    """Trained tokens of one stream in one micro-batch; all vectors are [N]."""

    logp: Tensor
    """log pi of the policy being trained; carries the gradient."""
    old: Tensor
    """The old_policy, log pi_old: `logp` itself (detached) on-policy, else what the engine recorded."""
    behaviour: Tensor
    """What the engine recorded; equals `old` where nothing was recorded."""
    reference: Tensor | None
    """log pi of the frozen reference; None unless a part of the objective `reads_reference`."""
    entropy: Tensor
    """Entropy of the policy's distribution at the token; carries gradient."""
    advantage: Tensor
    weight: Tensor
    """Weight of the token's sample."""
    row: Tensor
    """Sequence index of the token, int64, 0..rows-1."""
    rows: int
    """Sequences of the micro-batch (some may have no token here)."""
    lengths: Tensor | None = None
    """Trained tokens in each token's sequence, given where the vectors are a mere piece of the micro-batch."""


class Counts(NamedTuple):
    """Trained tokens of a stream and the sequences that have any, over all micro-batches and ranks of the optimiser step."""

    tokens: int
    sequences: int


if TYPE_CHECKING:
    Mask = Callable[[Tokens, Tensor, Tensor], Tensor]
    Denominator = Callable[[Tokens], Tensor]
    Advantage = Callable[[Tokens], Tensor]
    Likelihood = Callable[[Tokens], Tensor]
    Average = Callable[[Tokens, Counts], Any]


def row_sum(values: Tensor, tokens: Tokens) -> Tensor:
    """Sum of `values` [N] over each sequence, given back to every token of it, [N]."""
    if tokens.lengths is not None:
        raise ValueError(
            "a piece of a micro-batch has no sums over its sequences"
        )  # the learner then gives whole ones
    return values.new_zeros(tokens.rows).index_add(0, tokens.row, values)[tokens.row]


def row_length(tokens: Tokens) -> Tensor:
    """Trained tokens in each token's sequence, [N]."""
    if tokens.lengths is not None:
        return tokens.lengths
    return row_sum(tokens.logp.new_ones(tokens.logp.shape), tokens)


def reads_reference(part: Callable[..., Any]) -> Callable[..., Any]:
    """Marks a part that uses `tokens.reference`, so that the learner keeps a reference model."""
    part.needs_reference = True  # type: ignore[attr-defined]
    return part


# masks -------------------------------------------------------------------------------------------------------------------


def everywhere(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
    """1: every token keeps its gradient."""
    return ratio.new_ones(ratio.shape)


def clip(low: float, high: float) -> Mask:
    """PPO's clip (arXiv 1707.06347) as a mask: 0 if A > 0 and ratio > 1 + high, or A < 0 and ratio < 1 - low; else 1.

    Raises `RecipeError` for a bound below 0.
    """
    if low < 0 or high < 0:
        raise RecipeError(f"a clip needs bounds of 0 or more, got {low} and {high}")

    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        outside = ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low))
        return (~outside).to(ratio.dtype)

    return mask


def both(first: Mask, second: Mask) -> Mask:
    """The product of two masks."""
    return lambda tokens, ratio, advantage: (
        first(tokens, ratio, advantage) * second(tokens, ratio, advantage)
    )


def dual(bound: float) -> Mask:
    """Dual clip (arXiv 1912.09729): 0 if A < 0 and ratio > `bound`, where PPO's clip alone leaves the ratio unbounded; else 1."""
    return lambda tokens, ratio, advantage: 1 - ((advantage < 0) & (ratio > bound)).to(ratio.dtype)


def shaped(gamma: float) -> Mask:
    """LUFFY (arXiv 2504.14945): f'(p) = gamma / (p + gamma)^2 of f(p) = p / (p + gamma), for the `unit` denominator, whose ratio
    is p. Between 1 / gamma for improbable tokens and gamma / (1 + gamma)^2: the only mask above 1."""
    return lambda tokens, ratio, advantage: gamma / (ratio + gamma) ** 2


def soft(positive: float, negative: float) -> Mask:
    """SAPO (arXiv 2511.20347): 4 s (1 - s) with s = sigmoid(tau (ratio - 1)), tau = `positive` where A > 0, else `negative`."""

    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        up = (advantage > 0).to(ratio.dtype)
        s = ((positive * up + negative * (1 - up)) * (ratio - 1)).sigmoid()
        return 4 * s * (1 - s)

    return mask


# denominators --------------------------------------------------------------------------------------------------------------


def live(tokens: Tokens) -> Tensor:
    """log pi: the ratio is 1, the gradient that of A log pi."""
    return tokens.logp


def old_policy(tokens: Tokens) -> Tensor:
    """log pi_old: the importance ratio pi / pi_old of each token."""
    return tokens.old


def sequence_old_policy(tokens: Tokens) -> Tensor:
    """GSPO (arXiv 2507.18071): every token's ratio is exp(mean over its sequence of log pi - log pi_old)."""
    return tokens.logp - row_sum(tokens.logp - tokens.old, tokens) / row_length(tokens)


def sequence_product(tokens: Tokens) -> Tensor:
    """Every token's ratio is that of its whole sequence, exp(sum of log pi - log pi_old), as in TRL's RLOO."""
    return tokens.logp - row_sum(tokens.logp - tokens.old, tokens)


def gamma_weighted(positive: tuple[float, float], negative: tuple[float, float]) -> Denominator:
    """VESPO (arXiv 2602.10693): the ratio is phi(w) = w^k exp(lambda (1 - w)), w the probability ratio of the whole sequence.

    (k, lambda) are `positive` where the token's advantage is >= 0, else `negative`. phi(1) = 1, and phi falls to 0 on both sides
    of its peak at w = k / lambda.
    """

    def denominator(tokens: Tokens) -> Tensor:
        log_w = row_sum(tokens.logp - tokens.old, tokens).clamp(math.log(1e-8), 20)
        up = (tokens.advantage >= 0).to(log_w.dtype)
        k, rate = (up * a + (1 - up) * b for a, b in zip(positive, negative, strict=True))
        return tokens.logp - (k * log_w + rate * (1 - log_w.exp()))

    return denominator


def unit(tokens: Tokens) -> Tensor:
    """0: the ratio is pi itself, the gradient that of A pi (DFT, arXiv 2508.05629)."""
    return tokens.logp.new_zeros(tokens.logp.shape)


def capped(cap: float, denominator: Denominator = old_policy) -> Denominator:
    """Raises a denominator just enough that the ratio does not exceed `cap`: min(ratio, cap), as CISPO does."""
    return lambda tokens: denominator(tokens).maximum(tokens.logp - math.log(cap))


# advantages ----------------------------------------------------------------------------------------------------------------


def credit(tokens: Tokens) -> Tensor:
    """The advantage that credit assignment gave the token."""
    return tokens.advantage


def constant(value: float) -> Advantage:
    """The same number for every token: 1 imitates."""
    return lambda tokens: tokens.logp.new_full(tokens.logp.shape, value)


def sequence_credit(tokens: Tokens) -> Tensor:
    """The mean advantage of the token's sequence: one number a sequence, as GSPO asks."""
    return row_sum(tokens.advantage, tokens) / row_length(tokens)


def exponential(beta: float, cap: float) -> Advantage:
    """min(exp(A / beta), cap): advantage-weighted regression (arXiv 1910.00177). Never negative: nothing is pushed down."""
    return lambda tokens: (tokens.advantage / beta).clamp(max=math.log(cap)).exp()


# likelihoods ---------------------------------------------------------------------------------------------------------------


def token(tokens: Tokens) -> Tensor:
    """log pi of the token."""
    return tokens.logp


def entropy(tokens: Tokens) -> Tensor:
    """Entropy at the token: with `constant(c)` and the `live` denominator an entropy bonus of c."""
    return tokens.entropy


# averages ------------------------------------------------------------------------------------------------------------------


def token_mean(tokens: Tokens, counts: Counts) -> float:
    """1 / tokens of the step: all tokens weigh the same, long answers more than short ones."""
    return 1 / counts.tokens


def sequence_mean(tokens: Tokens, counts: Counts) -> Tensor:
    """1 / (sequences of the step * tokens of the own sequence): all sequences weigh the same."""
    return 1 / (row_length(tokens) * counts.sequences)


def sequence_sum(tokens: Tokens, counts: Counts) -> float:
    """1 / sequences of the step: the log-probability of a whole sequence, averaged over sequences."""
    return 1 / counts.sequences


def fixed_length(max_tokens: int) -> Average:
    """1 / (sequences of the step * max_tokens): Dr.GRPO's length-free constant."""
    return lambda tokens, counts: 1 / (counts.sequences * max_tokens)
