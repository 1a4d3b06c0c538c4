"""Credit that compares the samples of a whole step, over all processes.

A credit scheme sees the groups of its own process. What these need of the others is three
numbers or two, which travel through `gather`: the items of all processes, on every process. They
are collective: every process calls its credit once a step, with no groups if it has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from rlcore.credit.group import Credit, scored_rollouts
from rlcore.types import Group, Sample

Gather = Callable[[Iterable[Any]], list[Any]]


def whitened(credit: Credit, gather: Gather = list) -> Credit:
    """Advantages of mean 0 and standard deviation 1 over all trained tokens of the step:
    REINFORCE++ (arXiv 2501.03262).

    Over tokens as in verl, so long completions weigh more in both numbers; std over n. Where all
    are equal all become 0. `credit` should keep groups whose advantages are all zero
    (`zero_variance="keep"`): they tell the mean.
    """

    def whiten(groups: Sequence[Group]) -> list[list[Sample]]:
        samples_by_group = credit(groups)
        values: list[float] = []
        for samples in samples_by_group:
            for sample in samples:
                values += _trained(sample)
        mean, variance = _moments(values, gather)
        # Below that the variance is round-off.
        scale = 1 / math.sqrt(variance) if variance > 1e-24 * (1 + mean**2) else 0.0
        return _mapped(samples_by_group, lambda value: (value - mean) * scale)

    return whiten


def _moments(values: Sequence[float], gather: Gather) -> tuple[float, float]:
    """Mean and variance of the values of all processes, from count, mean and squared deviations
    of each.
    """
    local_mean = sum(values) / max(1, len(values))
    squares = sum((value - local_mean) ** 2 for value in values)
    parts = gather([(len(values), local_mean, squares)])
    n = max(1, sum(count for count, _, _ in parts))
    mean = sum(count * part_mean for count, part_mean, _ in parts) / n
    total = 0.0
    for count, part_mean, part_squares in parts:
        total += part_squares + count * (part_mean - mean) ** 2
    return mean, total / n


def batch_scaled(credit: Credit, gather: Gather = list, *, epsilon: float = 1e-4) -> Credit:
    """Advantages divided by the standard deviation (over n - 1) of all rewards of the step, plus
    epsilon: Lite PPO (arXiv 2508.08221), on the advantages of baseline "mean".

    One deviation for all groups, so a group with little spread is not blown up. As in TRL's
    `scale_rewards="batch"`. Groups whose rewards are all equal count in the deviation.
    """

    def scale(groups: Sequence[Group]) -> list[list[Sample]]:
        samples_by_group = credit(groups)
        rewards = [verdict.value for group in groups for _, verdict in scored_rollouts(group)]
        n = sum(gather([len(rewards)]))
        _, variance = _moments(rewards, gather)
        deviation = math.sqrt(variance * n / (n - 1)) if n > 1 else 0.0
        return _mapped(samples_by_group, lambda value: value / (deviation + epsilon))

    return scale


def exponential_weights(
    credit: Credit, gather: Gather = list, *, beta: float = 1.0, cap: float = 20.0
) -> Credit:
    """Advantages A become min(exp(A / beta), cap) divided by the mean of that over the sequences
    of the step.

    Advantage-weighted regression (arXiv 1910.00177) with weights of mean 1; use objective
    "reinforce" or "rloo". The mean is over sequences, each counted with the mean of its tokens'
    weights.
    """

    def weight(value: float) -> float:
        return math.exp(min(value / beta, math.log(cap)))

    def weigh(groups: Sequence[Group]) -> list[list[Sample]]:
        samples_by_group = _mapped(credit(groups), weight)
        means = []
        for samples in samples_by_group:
            for sample in samples:
                weights = _trained(sample)
                if weights:
                    means.append(sum(weights) / len(weights))
        parts = gather([(len(means), sum(means))])
        n = max(1, sum(count for count, _ in parts))
        mean = sum(total for _, total in parts) / n
        return _mapped(samples_by_group, lambda value: value / mean)

    return weigh


def _trained(sample: Sample) -> list[float]:
    """Advantages of the trained tokens."""
    pairs = zip(sample.advantages, sample.mask, strict=True)
    return [advantage for advantage, trained in pairs if trained]


def _mapped(
    samples_by_group: Sequence[Sequence[Sample]], function: Callable[[float], float]
) -> list[list[Sample]]:
    """The samples with `function` of every trained token's advantage."""

    def change(sample: Sample) -> Sample:
        pairs = zip(sample.advantages, sample.mask, strict=True)
        advantages = [function(advantage) if trained else 0.0 for advantage, trained in pairs]
        return replace(sample, advantages=advantages)

    return [[change(sample) for sample in samples] for samples in samples_by_group]
