"""Other orders of the same batches, estimated from one run, against training again in each of them."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor
from torch.func import grad

from rlcore.measures.order_effects import reordered

BATCHES, ROWS, WIDTH = 4, 6, 3


def data(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(BATCHES, ROWS, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randn(BATCHES, ROWS, generator=generator, dtype=torch.float64)
    return inputs, targets


def trained(step, start: Tensor, order) -> list[Tensor]:
    states = [start]
    for time, batch in enumerate(order):
        states.append(states[-1] + step(time, batch, states[-1]))
    return states


def test_on_a_quadratic_loss_the_first_order_is_exact() -> None:
    inputs, targets = data(0)

    def step(time: int, batch: int, parameters: Tensor) -> Tensor:
        residual = inputs[batch] @ parameters - targets[batch]
        return -0.1 / (1 + time) * inputs[batch].T @ residual / ROWS

    start = torch.ones(WIDTH, dtype=torch.float64)
    states = trained(step, start, range(BATCHES))
    for order in permutations(range(BATCHES)):
        again = trained(step, start, order)[-1]
        torch.testing.assert_close(reordered(states, step, order), again, rtol=1e-12, atol=1e-14)
    # the order has an effect that the estimate must have found
    assert (again - states[-1]).abs().max() > 1e-3


def adam_run(order) -> list[Tensor]:
    """torch's own Adam on a small network: parameters and both moments, end to end, before and after each step of the order."""
    parameters = torch.nn.Parameter(START.clone())
    optimizer = torch.optim.Adam([parameters], lr=LR)
    states = []
    for batch in [*(time % BATCHES for time in range(WARM)), *order]:
        optimizer.zero_grad()
        loss(batch, parameters).backward()
        optimizer.step()
        moments = optimizer.state[parameters]
        kept = (parameters.detach(), moments["exp_avg"], moments["exp_avg_sq"])
        states.append(torch.cat(kept))
    return states[WARM - 1 :]


LR, HIDDEN = 0.02, 4
WARM = 20
"""Steps before the orders differ: Adam's first ones divide by moments that are nearly 0."""
INPUTS, TARGETS = data(1)
START = 0.5 * torch.randn(
    WIDTH * HIDDEN + HIDDEN, generator=torch.Generator().manual_seed(2), dtype=torch.float64
)


def loss(batch: int, parameters: Tensor) -> Tensor:
    first = parameters[: WIDTH * HIDDEN].view(WIDTH, HIDDEN)
    hidden = torch.tanh(INPUTS[batch] @ first)
    return ((hidden @ parameters[WIDTH * HIDDEN :] - TARGETS[batch]) ** 2).mean()


def adam_step(time: int, batch: int, state: Tensor) -> Tensor:
    parameters, first, second = state.chunk(3)
    gradient = grad(lambda point: loss(batch, point))(parameters)
    new_first = 0.9 * first + 0.1 * gradient
    new_second = 0.999 * second + 0.001 * gradient**2
    number = WARM + time + 1
    scaled = (new_second / (1 - 0.999**number)).sqrt() + 1e-8
    change = -LR * new_first / (1 - 0.9**number) / scaled
    return torch.cat([change, new_first - first, new_second - second])


def test_with_adam_each_further_term_comes_closer_to_training_again() -> None:
    reference = list(range(BATCHES)) * 2
    states = adam_run(reference)
    # the reference itself: the steps are torch's
    torch.testing.assert_close(reordered(states, adam_step, reference), states[-1], rtol=0, atol=1e-12)
    errors = dict.fromkeys((None, 0, 1, 2), 0.0)
    for order in list(permutations(range(BATCHES)))[1:]:
        twice = [*order, *order]
        estimates = {None: states[-1]}  # the order does not matter
        for terms in (0, 1, 2):
            estimates[terms] = reordered(states, adam_step, twice, terms=terms)
        trained_again = adam_run(twice)[-1]
        for terms, estimate in estimates.items():
            errors[terms] += float((estimate - trained_again)[: len(START)].norm())
    assert errors[2] < 0.1 * errors[1] < 0.01 * errors[0] and errors[0] < errors[None]


def test_an_order_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 batches does not fit a run of 3 steps"):
        reordered([START] * 4, lambda t, b, p: p, [0, 1])
