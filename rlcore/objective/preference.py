"""Losses on pairs of completions that need no reference model: SimPO, CPO, ORPO and Sharpening.

Each is made as `loss(**parameters)` and maps what the policy gives both sides, `Sides`, to
`PairLosses`. One of your own is named by its place: `method: my_losses.py:loss`. DPO and KTO,
which compare with the model the stage began with, are TRL's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from rlcore.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor


class Sides(NamedTuple):
    """What the policy gives the completions of B pairs, each [B]."""

    chosen: Tensor
    """Sum of the log-probabilities of the chosen completion's tokens."""
    rejected: Tensor
    chosen_tokens: Tensor
    """Number of tokens of the chosen completion."""
    rejected_tokens: Tensor
    margin: Tensor | None = None
    """By how much the pair's rewards differ; None where one of the pairs does not say."""

    @property
    def chosen_mean(self) -> Tensor:
        """Mean log-probability of a token of the chosen completion."""
        return self.chosen / self.chosen_tokens

    @property
    def rejected_mean(self) -> Tensor:
        return self.rejected / self.rejected_tokens


class PairLosses(NamedTuple):
    """Of B pairs, each [B]."""

    loss: Tensor
    chosen_reward: Tensor
    """The method's implicit reward of the chosen completion; the metric `margin` is the mean
    difference.
    """
    rejected_reward: Tensor


PairLoss = Callable[[Sides], PairLosses]

PAIR_LOSSES = {
    name: f"rlcore.objective.preference:{name}"
    for name in ("dpo", "kto", "simpo", "cpo", "orpo", "sharpen")
}
"""Name in a recipe -> a function of its parameters. Those of dpo and kto give settings of TRL's
trainers.
"""


def dpo(*, beta: float = 0.1) -> dict[str, float]:
    """-log sigmoid(beta (log-ratio of chosen - log-ratio of rejected)), or as `loss_type` says,
    against the model the stage began with.

    Source: arXiv 2305.18290. beta: how strongly the policy is held to that model.
    """
    return {"beta": _positive("beta", beta)}


def kto(
    *, beta: float = 0.1, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> dict[str, float]:
    """1 - sigmoid(beta (log-ratio - z)) of chosen completions, 1 - sigmoid(beta (z -
    log-ratio)) of rejected ones, each by itself.

    Source: KTO (arXiv 2402.01306, Eq. 8). z, at least 0, estimates the KL to the model the
    stage began with from completions put behind other prompts of the micro-batch.
    beta: how strongly the policy is held to that model.
    desirable_weight, undesirable_weight: of chosen and of rejected completions.
    """
    return {
        "beta": _positive("beta", beta),
        "desirable_weight": desirable_weight,
        "undesirable_weight": undesirable_weight,
    }


def simpo(*, beta: float = 2.0, gamma: float = 1.0) -> PairLoss:
    """-log sigmoid(beta (mean log-probability of chosen - that of rejected) - gamma).

    Source: SimPO (arXiv 2405.14734, Eq. 6), whose authors use beta 2 to 2.5 and gamma 0.5 to
    1.6.
    beta: scale of the mean log-probability of a token, which is the reward. gamma: margin that
    chosen is to have.
    """
    _positive("beta", beta)

    def loss(sides: Sides) -> PairLosses:
        chosen = beta * sides.chosen_mean
        rejected = beta * sides.rejected_mean
        return PairLosses(-_logsigmoid(chosen - rejected - gamma), chosen, rejected)

    return loss


def cpo(*, beta: float = 0.1, nll: float = 1.0) -> PairLoss:
    """-log sigmoid(beta (log p(chosen) - log p(rejected))) + nll x the mean loss of a chosen
    token.

    Source: CPO (arXiv 2401.08417, Eq. 5): DPO with a uniform reference, held up by imitation.
    beta: scale of the log-probability, which is the reward. nll: weight of imitating the chosen
    completion, by its mean over tokens as in TRL.
    """
    _positive("beta", beta)

    def loss(sides: Sides) -> PairLosses:
        chosen = beta * sides.chosen
        rejected = beta * sides.rejected
        prefer = -_logsigmoid(chosen - rejected)
        return PairLosses(prefer - nll * sides.chosen_mean, chosen, rejected)

    return loss


def orpo(*, beta: float = 0.1) -> PairLoss:
    """The mean loss of a chosen token - beta log sigmoid(log odds(chosen) - log
    odds(rejected)).

    Source: ORPO (arXiv 2403.07691, Eq. 6 and 7): odds(y) = P / (1 - P), where log P is the mean
    log-probability of a token. The prompt is not imitated; in TRL it is.
    beta: weight of the odds ratio (lambda in the paper).
    """
    _positive("beta", beta)

    def loss(sides: Sides) -> PairLosses:
        log_odds = sides.chosen_mean - _log1mexp(sides.chosen_mean)
        log_odds = log_odds - (sides.rejected_mean - _log1mexp(sides.rejected_mean))
        imitate = -sides.chosen_mean
        return PairLosses(
            imitate - beta * _logsigmoid(log_odds),
            beta * sides.chosen_mean,
            beta * sides.rejected_mean,
        )

    return loss


def sharpen(*, beta: float = 0.1) -> PairLoss:
    """(beta (log p(chosen) - log p(rejected)) - (1 + beta) margin)^2, where the margin is the difference of
    the two completions' log-probabilities under the policy that the stage began with.

    Source: RLHF-sharpening (arXiv 2412.01951), whose log-ratios to that policy are taken together with
    its self-rewards: both are the margin. At 0 the policy is proportional to p_start^(1 + 1/beta). Pairs:
    `best_worst` of a `sample` stage right before, with the reward `likelihood`.
    beta: how strongly the policy is held to the one that the stage began with.
    """
    _positive("beta", beta)

    def loss(sides: Sides) -> PairLosses:
        if sides.margin is None:
            raise RecipeError(
                "method sharpen reads the margin of each pair, and one has none: use pairs: best_worst "
                "of completions with the reward likelihood"
            )
        chosen = beta * sides.chosen
        rejected = beta * sides.rejected
        error = chosen - rejected - (1 + beta) * sides.margin
        return PairLosses(error.square(), chosen, rejected)

    return loss


def _logsigmoid(value: Tensor) -> Tensor:
    from torch.nn.functional import logsigmoid  # recipes are checked without torch

    return logsigmoid(value)


def _log1mexp(value: Tensor) -> Tensor:
    """log(1 - exp(value)) of values below 0; the largest is -1e-6, where the odds are a
    million.
    """
    return (-value.clamp(max=-1e-6).expm1()).log()


def _positive(name: str, value: float) -> float:
    if not value > 0:
        raise RecipeError(f"{name} must be above 0, not {value!r}")
    return value
