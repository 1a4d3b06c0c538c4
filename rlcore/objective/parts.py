"""The parts of a `Term`, as small functions on flat vectors over the trained tokens of one
micro-batch, [N].

Following "Towards a Unified View of LLM Post-Training" (arXiv 2509.04419), the gradient of every
objective here is

    grad L = - sum_n  weight * mask_n * ratio_n * advantage_n * average_n * grad likelihood_n
    with ratio_n = exp(logp_n - denominator_n)

where everything in front of `grad likelihood` is a constant. A part is a plain function (or a
function that returns one, where it has parameters) and sees detached log-probabilities; only a
likelihood sees the live ones.

    mask         (tokens, ratio, advantage) -> [N], >= 0   1 keeps the token's gradient, 0 drops it
    denominator  (tokens) -> [N]                           log-probability the ratio is taken to
    advantage    (tokens) -> [N]                           above 0 pulls the token's probability up
    likelihood   (tokens) -> [N], differentiable           what is differentiated
    average      (tokens, counts) -> [N] or a number       weight of each token in the sum

There are no padded shapes: sums over a sequence go through `tokens.row`. There is no torch import
either: tensor methods suffice. Parts that read the reference model are in `rlcore.objective.kl`,
corrections of an engine that disagrees with the learner in `rlcore.objective.correction`.

A part that calls another part is wrapped with `wrapping`, so that the learner still knows whether
a reference model is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rlcore.errors import RecipeError
from rlcore.objective.tokens import Counts, Tokens, row_length, row_mean, row_sum, wrapping

if TYPE_CHECKING:
    from torch import Tensor

if TYPE_CHECKING:
    Mask = Callable[[Tokens, Tensor, Tensor], Tensor]
    Denominator = Callable[[Tokens], Tensor]
    Advantage = Callable[[Tokens], Tensor]
    Likelihood = Callable[[Tokens], Tensor]
    Average = Callable[[Tokens, Counts], Any]


# masks -------------------------------------------------------------------------------------------


def everywhere(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
    """1: every token keeps its gradient."""
    return ratio.new_ones(ratio.shape)


def clip(low: float, high: float) -> Mask:
    """PPO's clip (arXiv 1707.06347) as a mask.

    0 if A > 0 and ratio > 1 + high, or A < 0 and ratio < 1 - low; else 1.
    Raises `RecipeError` for a bound below 0.
    """
    if low < 0 or high < 0:
        raise RecipeError(f"a clip needs bounds of 0 or more, got {low} and {high}")

    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        too_high = (advantage > 0) & (ratio > 1 + high)
        too_low = (advantage < 0) & (ratio < 1 - low)
        outside = too_high | too_low
        return (~outside).to(ratio.dtype)

    return mask


def both(first: Mask, second: Mask) -> Mask:
    """The product of two masks."""

    @wrapping(first, second)
    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        one = first(tokens, ratio, advantage)
        other = second(tokens, ratio, advantage)
        return one * other

    return mask


def dual(bound: float) -> Mask:
    """Dual clip (arXiv 1912.09729): 0 if A < 0 and ratio > `bound`; else 1.

    PPO's clip alone leaves the ratio of such tokens unbounded.
    """

    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        outside = (advantage < 0) & (ratio > bound)
        return 1 - outside.to(ratio.dtype)

    return mask


def shaped(gamma: float) -> Mask:
    """LUFFY (arXiv 2504.14945): f'(p) = gamma / (p + gamma)^2, the derivative of f(p) = p / (p +
    gamma).

    For the `unit` denominator, whose ratio is p. Between 1 / gamma for improbable tokens and
    gamma / (1 + gamma)^2: the only mask above 1.
    """

    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        return gamma / (ratio + gamma) ** 2

    return mask


def soft(positive: float, negative: float) -> Mask:
    """SAPO (arXiv 2511.20347): 4 s (1 - s) with s = sigmoid(tau (ratio - 1)).

    tau is `positive` where A > 0, else `negative`.
    """

    def mask(tokens: Tokens, ratio: Tensor, advantage: Tensor) -> Tensor:
        up = (advantage > 0).to(ratio.dtype)
        tau = positive * up + negative * (1 - up)
        s = (tau * (ratio - 1)).sigmoid()
        return 4 * s * (1 - s)

    return mask


# denominators ------------------------------------------------------------------------------------


def live(tokens: Tokens) -> Tensor:
    """log pi: the ratio is 1, the gradient that of A log pi."""
    return tokens.logp


def old_policy(tokens: Tokens) -> Tensor:
    """log pi_old: the importance ratio pi / pi_old of each token."""
    return tokens.old


def sequence_old_policy(tokens: Tokens) -> Tensor:
    """GSPO (arXiv 2507.18071): every token's ratio is exp(mean over its sequence of log pi -
    log pi_old)."""
    log_ratio = tokens.logp - tokens.old
    return tokens.logp - row_mean(log_ratio, tokens)


def sequence_product(tokens: Tokens) -> Tensor:
    """Every token's ratio is that of its whole sequence, exp(sum of log pi - log pi_old), as in
    TRL's RLOO."""
    log_ratio = tokens.logp - tokens.old
    return tokens.logp - row_sum(log_ratio, tokens)


def gamma_weighted(positive: tuple[float, float], negative: tuple[float, float]) -> Denominator:
    """VESPO (arXiv 2602.10693): the ratio is phi(w) = w^k exp(lambda (1 - w)).

    w is the probability ratio of the whole sequence. (k, lambda) are `positive` where the token's
    advantage is >= 0, else `negative`. phi(1) = 1, and phi falls to 0 on both sides of its peak at
    w = k / lambda.
    """
    k_positive, rate_positive = positive
    k_negative, rate_negative = negative

    def denominator(tokens: Tokens) -> Tensor:
        log_w = row_sum(tokens.logp - tokens.old, tokens)
        log_w = log_w.clamp(math.log(1e-8), 20)
        up = (tokens.advantage >= 0).to(log_w.dtype)
        k = up * k_positive + (1 - up) * k_negative
        rate = up * rate_positive + (1 - up) * rate_negative
        log_phi = k * log_w + rate * (1 - log_w.exp())
        return tokens.logp - log_phi

    return denominator


def unit(tokens: Tokens) -> Tensor:
    """0: the ratio is pi itself, the gradient that of A pi (DFT, arXiv 2508.05629)."""
    return tokens.logp.new_zeros(tokens.logp.shape)


def capped(cap: float, denominator: Denominator = old_policy) -> Denominator:
    """Raise a denominator just enough that the ratio does not exceed `cap`: min(ratio, cap), as
    in CISPO."""

    @wrapping(denominator)
    def part(tokens: Tokens) -> Tensor:
        lowest = tokens.logp - math.log(cap)
        return denominator(tokens).maximum(lowest)

    return part


# advantages --------------------------------------------------------------------------------------


def credit(tokens: Tokens) -> Tensor:
    """The advantage that credit assignment gave the token."""
    return tokens.advantage


def constant(value: float) -> Advantage:
    """The same number for every token: 1 imitates."""

    def advantage(tokens: Tokens) -> Tensor:
        return tokens.logp.new_full(tokens.logp.shape, value)

    advantage.is_constant = True  # type: ignore[attr-defined]
    return advantage


def sequence_credit(tokens: Tokens) -> Tensor:
    """The mean advantage of the token's sequence: one number a sequence, as in GSPO."""
    return row_mean(tokens.advantage, tokens)


def exponential(beta: float, cap: float) -> Advantage:
    """min(exp(A / beta), cap): advantage-weighted regression (arXiv 1910.00177).

    Never negative: no token is pushed down. Raises `RecipeError` unless both are above 0.
    """
    if not (beta > 0 and cap > 0):
        raise RecipeError(f"beta and cap must be above 0, not {beta!r} and {cap!r}")

    def advantage(tokens: Tokens) -> Tensor:
        scaled = tokens.advantage / beta
        return scaled.clamp(max=math.log(cap)).exp()

    return advantage


def where(sign: int) -> Advantage:
    """1 at tokens whose advantage has this sign (1 or -1), else 0."""

    def advantage(tokens: Tokens) -> Tensor:
        return (tokens.advantage * sign > 0).to(tokens.logp.dtype)

    return advantage


def less_sequence_log_ratio(tau: float, advantage: Advantage = credit) -> Advantage:
    """A - tau log(pi / pi_old) of the token's whole sequence: the error whose square Kimi k1.5
    minimises."""

    @wrapping(advantage)
    def part(tokens: Tokens) -> Tensor:
        log_ratio = tokens.logp - tokens.old
        return advantage(tokens) - tau * row_sum(log_ratio, tokens)

    return part


# likelihoods -------------------------------------------------------------------------------------


def token(tokens: Tokens) -> Tensor:
    """log pi of the token."""
    return tokens.logp


def unlikely(tokens: Tokens) -> Tensor:
    """log(1 - pi) of the token (arXiv 1908.04319): pushes it down, the harder the more probable it is.

    Above 1 - 1e-6, where the gradient would not be finite, pi counts as that and has none.
    """
    return (-tokens.logp.exp().clamp(max=1 - 1e-6)).log1p()


def entropy(tokens: Tokens) -> Tensor:
    """Entropy at the token: with `constant(c)` and the `live` denominator an entropy bonus of c."""
    return tokens.entropy


# averages ----------------------------------------------------------------------------------------


def token_mean(tokens: Tokens, counts: Counts) -> float:
    """1 / tokens of the update: all tokens weigh the same, long completions more than short
    ones."""
    return 1 / counts.tokens


def sequence_mean(tokens: Tokens, counts: Counts) -> Tensor:
    """1 / (sequences of the update * tokens of the own sequence): all sequences weigh the same."""
    return 1 / (row_length(tokens) * counts.sequences)


def sequence_sum(tokens: Tokens, counts: Counts) -> float:
    """1 / sequences of the update: the log-probability of a whole sequence, averaged over
    sequences."""
    return 1 / counts.sequences


def fixed_length(max_tokens: int) -> Average:
    """1 / (sequences of the update * max_tokens): Dr.GRPO's length-free constant."""

    def average(tokens: Tokens, counts: Counts) -> float:
        return 1 / (counts.sequences * max_tokens)

    return average
