"""Credit that compares each reward with its own group before the rewards are summed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean, stdev

from rlcore.credit.group import Credit
from rlcore.errors import RewardError
from rlcore.types import Group, Verdict


def normalised_parts(
    credit: Credit, weights: Mapping[str, float], *, epsilon: float = 1e-4
) -> Credit:
    """GDPO (arXiv 2601.05242): `credit` sees sum_k w_k (r_k - mean(r_k)) / (std(r_k) + epsilon)
    as the reward of a completion.

    Mean and std (over n - 1, as in TRL) are those of part k over the scored completions of the
    group; a part whose values are all equal counts 0. So rewards of any scale have a say by their
    weight alone, and sums that come out equal in different ways stay apart. The paper then
    whitens over the step: baseline "global", which does it over tokens. weights: by name of a
    part (`math`, `judge/style`). Raises `RewardError` where a scored completion lacks one of
    them.
    """
    return lambda groups: credit([_normalised(group, weights, epsilon) for group in groups])


def _normalised(group: Group, weights: Mapping[str, float], epsilon: float) -> Group:
    scored = [verdict for verdict in group.verdicts if verdict.value is not None]
    totals = [0.0] * len(scored)
    for name, weight in weights.items():
        values = [_part(group, verdict, name) for verdict in scored]
        if len(set(values)) < 2:
            continue
        mean = fmean(values)
        scale = stdev(values) + epsilon
        for i, value in enumerate(values):
            totals[i] += weight * (value - mean) / scale
    remaining = iter(totals)
    verdicts = [
        verdict if verdict.value is None else replace(verdict, value=next(remaining))
        for verdict in group.verdicts
    ]
    return replace(group, verdicts=verdicts)


def _part(group: Group, verdict: Verdict, name: str) -> float:
    value = verdict.parts.get(name)
    if value is None:
        present = [part for part, other in verdict.parts.items() if other is not None]
        raise RewardError(
            f"credit.normalise_parts needs {name!r} of every completion; "
            f"one of task {group.task.id} has only: {', '.join(present)}"
        )
    return value
