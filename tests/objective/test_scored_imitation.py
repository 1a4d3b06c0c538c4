"""Objectives of "Pretraining Language Models with Human Preferences" (arXiv 2302.08582) on one sequence each."""

from __future__ import annotations

import math

import pytest
import torch

from rlcore.objective import Counts, Tokens, objective

LOGP = torch.log(torch.tensor([0.9, 0.2, 0.5, 0.01], dtype=torch.float64))


def gradient(name: str, advantages: list[float], **parameters: float) -> torch.Tensor:
    logp = LOGP.clone().requires_grad_()
    zero = torch.zeros_like(LOGP)
    tokens = Tokens(
        logp=logp, old=LOGP, behaviour=LOGP, reference=None, entropy=zero,
        advantage=torch.tensor(advantages, dtype=torch.float64),
        weight=torch.ones_like(LOGP), row=torch.zeros(4, dtype=torch.long), rows=1,
    )  # fmt: skip
    loss = sum(term(tokens, Counts(4, 1)) for term in objective(name, **parameters).terms)
    return torch.autograd.grad(loss, logp)[0]


def test_unlikelihood_pushes_down_the_harder_the_more_probable_a_token_is() -> None:
    p = LOGP.exp()
    expected = torch.where(torch.tensor([True, False, True, False]), -torch.ones(4).double(), p / (1 - p)) / 4
    torch.testing.assert_close(gradient("unlikelihood", [1, -1, 1, -1]), expected, rtol=1e-12, atol=0)


def test_unlikelihood_without_its_weight_is_the_likelihood_of_what_is_good() -> None:
    """Filtering by a loss mask: bad tokens have no gradient, and the average still counts them."""
    masked = gradient("sft", [1, 1, 1, 1]) * torch.tensor([1, 0, 1, 0])
    assert torch.equal(gradient("unlikelihood", [1, -1, 1, -1], alpha=0.0), masked)


def test_advantage_weighted_regression_where_reward_and_value_are_equal_is_cross_entropy() -> None:
    assert torch.equal(gradient("awr", [0, 0, 0, 0], beta=10.0, cap=1000.0), gradient("sft", [0] * 4))


@pytest.mark.parametrize(("score", "weight"), [(-10.0, math.exp(-1)), (5.0, math.exp(0.5)), (69.0, math.exp(6.9)), (70.0, 1000)])
def test_weights_are_exponential_and_end_at_1000(score: float, weight: float) -> None:
    expected = torch.full((4,), -weight / 4, dtype=torch.float64)
    got = gradient("awr", [score] * 4, beta=10.0, cap=1000.0)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=0)


def test_what_is_certain_stays_finite() -> None:
    from rlcore.objective.parts import unlikely

    logp = torch.tensor([0.0, -1e-9, -1e-3], requires_grad=True)
    value = unlikely(Tokens(*[logp] * 6, weight=logp, row=logp, rows=1))
    grad = torch.autograd.grad(value.sum(), logp)[0]
    assert value.isfinite().all() and grad.isfinite().all() and grad[2] < -900
