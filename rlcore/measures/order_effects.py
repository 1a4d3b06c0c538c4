"""What training on the same batches in another order would have given, without training again
("Estimating the Effects of Sample Training Orders", arXiv 2505.22042).

A reference run passed through the parameters theta_0 ... theta_T. In another order the step at time t takes another
batch b and starts from other parameters gamma_t. Its change of the parameters is expanded around theta_t (equation 3):

    gamma_(t+1) = gamma_t + step(t, b, theta_t) + step' (gamma_t - theta_t) + 1/2 step'' (gamma_t - theta_t)^2

Gradients are only taken at the parameters of the reference run, so those of one order serve all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Step = Callable[[int, int, "Tensor"], "Tensor"]
"""(time t, number of the batch, parameters [P]) -> change of the parameters [P], differentiable by them.

With Adam the parameters are followed by its moments, end to end: they depend on the order too. Its first steps, which
divide by moments near 0, are no place to begin.
"""


def reordered(
    states: Sequence[Tensor], step: Step, order: Sequence[int], *, terms: Literal[0, 1, 2] = 1
) -> Tensor:
    """The estimated last parameters [P] of a run over the batches in `order`.

    states: theta_0 ... theta_T of the reference run, [T + 1] of [P]. order: [T] numbers of batches. terms: of the
    expansion; 0 takes each change at the reference's parameters. Exact with 1 where changes are linear in the
    parameters (gradient descent on a quadratic loss). Raises `ValueError` for an order of another length.
    """
    if len(order) != len(states) - 1:
        raise ValueError(
            f"an order of {len(order)} batches does not fit a run of {len(states) - 1} steps"
        )
    parameters = states[0]
    for time, batch in enumerate(order):
        difference = parameters - states[time]
        change = _expanded(
            lambda point, t=time, b=batch: step(t, b, point), states[time], difference, terms
        )
        parameters = parameters + change
    return parameters


def _expanded(
    function: Callable[[Tensor], Tensor], point: Tensor, difference: Tensor, terms: int
) -> Tensor:
    """The Taylor expansion of `function` at `point + difference`, up to the given power."""
    from torch.func import jvp

    if terms == 0:
        return function(point)

    def slope(at: Tensor) -> Tensor:
        return jvp(function, (at,), (difference,))[1]

    value, first = jvp(function, (point,), (difference,))
    if terms == 1:
        return value + first
    return value + first + jvp(slope, (point,), (difference,))[1] / 2
