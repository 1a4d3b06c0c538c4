"""Credit that compares each reward with its own group before the rewards are summed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from rlcore.credit.group import Credit
from rlcore.errors import RewardError
from rlcore.types import Group, Verdict


def normalised_parts(
    credit: Credit, weights: Mapping[str, float], *, epsilon: float = 1e-4
) -> Credit:
    """GDPO (arXiv 2601.05242): `credit` sees sum_k w_k (r_k - mean(r_k)) / (std(r_k) + epsilon) as the reward of an answer.

    Mean and std (over n - 1, as in TRL) are those of part k over the scored answers of the group; a part whose values are all
    equal counts 0. So rewards of any scale have a say by their weight alone, and sums that come out equal in different ways stay
    apart. The paper then whitens over the step: baseline "global", which does it over tokens. weights: by name of a part (`math`,
    `judge/style`). Raises `RewardError` where a scored answer lacks one of them.
    """
    return lambda groups: credit([_normalised(group, weights, epsilon) for group in groups])


def _normalised(group: Group, weights: Mapping[str, float], epsilon: float) -> Group:
    scored = [verdict for verdict in group.verdicts if verdict.value is not None]
    totals = [0.0] * len(scored)
    for name, weight in weights.items():
        values = [_part(group, verdict, name) for verdict in scored]
        if len(set(values)) > 1:
            mean, scale = fmean(values), stdev(values) + epsilon
            totals = [
                total + weight * (value - mean) / scale
                for total, value in zip(totals, values, strict=True)
            ]
    mixed: Sequence[Verdict] = [
        replace(verdict, value=total) for verdict, total in zip(scored, totals, strict=True)
    ]
    new = iter(mixed)
    return replace(
        group,
        verdicts=[verdict if verdict.value is None else next(new) for verdict in group.verdicts],
    )


def _part(group: Group, verdict: Verdict, name: str) -> float:
    value = verdict.parts.get(name)
    if value is None:
        known = ", ".join(part for part, given in verdict.parts.items() if given is not None)
        raise RewardError(
            f"credit.normalise_parts needs {name!r} of every answer; one to task {group.task.id} has only: {known}"
        )
    return value
