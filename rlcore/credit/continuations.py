"""Continuations that were written to value a step, learned from as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from rlcore.credit.group import Credit
from rlcore.types import Group, Prefix, Sample

Keep = Literal["correct", "all"]


def with_continuations(
    credit: Credit,
    group_baseline: Credit,
    written: Callable[[], list[tuple[Prefix, Group]]],
    keep: Keep,
) -> Credit:
    """Adds samples of the continuations that `credit` had written for its values.

    The continuations of one prefix are a group like the answers to one prompt, and `group_baseline` compares them. Their own
    tokens are trained; the prefix, which may hold the mistake, is what they begin with, with the log-probabilities it was written
    with. keep: "all", an unbiased gradient for what may follow the prefix; "correct", only those better than their group.
    """

    def whole(groups: Sequence[Group]) -> list[list[Sample]]:
        made = [list(samples) for samples in credit(groups)]
        place = {
            rollout.id: position
            for position, group in enumerate(groups)
            for rollout in group.rollouts
        }
        grown = written()
        for (prefix, _), samples in zip(
            grown, group_baseline([group for _, group in grown]), strict=True
        ):
            after = prefix.rollout.mask.index(True) + prefix.length
            made[place[prefix.rollout.id]] += [
                _from(after, sample)
                for sample in samples
                if keep == "all" or sample.advantages[-1] > 0
            ]
        return made

    return whole


def _from(start: int, sample: Sample) -> Sample:
    return replace(
        sample,
        mask=[False] * start + sample.mask[start:],
        advantages=[0.0] * start + sample.advantages[start:],
    )
