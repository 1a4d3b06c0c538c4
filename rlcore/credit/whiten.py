"""Credit that compares the samples of a whole optimiser step, over all processes.

A credit scheme sees the groups of its own process. What these two need of the others is three numbers or two, which travel
through `gather`: the items of all processes, on every process. They are collective: every process calls its credit once a step,
with no groups if it has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from rlcore.credit.group import Credit
from rlcore.types import Group, Sample

Gather = Callable[[Iterable[Any]], list[Any]]


def whitened(credit: Credit, gather: Gather = list) -> Credit:
    """Advantages of mean 0 and standard deviation 1 over all trained tokens of the step: REINFORCE++ (arXiv 2501.03262).

    Over tokens as in verl, so long answers weigh more in both numbers; std over n. Where all are equal all become 0. `credit`
    should keep groups whose advantages are all zero (`zero_variance="keep"`): they tell the mean.
    """

    def whole(groups: Sequence[Group]) -> list[list[Sample]]:
        made = credit(groups)
        values = [value for samples in made for sample in samples for value in _trained(sample)]
        own_mean = sum(values) / max(1, len(values))
        shares = gather([(len(values), own_mean, sum((value - own_mean) ** 2 for value in values))])
        n = max(1, sum(count for count, _, _ in shares))
        mean = sum(count * own for count, own, _ in shares) / n
        variance = sum(squares + count * (own - mean) ** 2 for count, own, squares in shares) / n
        scale = (
            1 / math.sqrt(variance) if variance > 1e-24 * (1 + mean**2) else 0.0
        )  # below that it is round-off
        return _mapped(made, lambda value: (value - mean) * scale)

    return whole


def exponential_weights(
    credit: Credit, gather: Gather = list, *, beta: float = 1.0, cap: float = 20.0
) -> Credit:
    """Advantages A become min(exp(A / beta), cap) divided by the mean of that over the sequences of the step.

    Advantage-weighted regression (arXiv 1910.00177) with weights of mean 1; use objective "reinforce" or "rloo". The mean is over
    sequences, each counted with the mean of its tokens' weights.
    """

    def weight(value: float) -> float:
        return math.exp(min(value / beta, math.log(cap)))

    def whole(groups: Sequence[Group]) -> list[list[Sample]]:
        made = _mapped(credit(groups), weight)
        means = [
            sum(values) / len(values)
            for samples in made
            for sample in samples
            if (values := _trained(sample))
        ]
        shares = gather([(len(means), sum(means))])
        mean = sum(total for _, total in shares) / max(1, sum(count for count, _ in shares))
        return _mapped(made, lambda value: value / mean)

    return whole


def _trained(sample: Sample) -> list[float]:
    return [value for value, on in zip(sample.advantages, sample.mask, strict=True) if on]


def _mapped(
    made: Sequence[Sequence[Sample]], function: Callable[[float], float]
) -> list[list[Sample]]:
    """The samples with `function` of every trained token's advantage."""
    return [
        [
            replace(
                sample,
                advantages=[
                    function(a) if on else 0.0
                    for a, on in zip(sample.advantages, sample.mask, strict=True)
                ],
            )
            for sample in samples
        ]
        for samples in made
    ]
