"""Continuations that were sampled to value a step, learned from as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from rlcore.credit.group import Credit
from rlcore.types import Group, Prefix, Sample

Keep = Literal["correct", "all"]


def with_continuations(credit: Credit, group_baseline: Credit, keep: Keep) -> Credit:
    """Adds samples of the continuations that were sampled to value steps (`Group.continuations`).

    The continuations of one prefix are a group like the completions of one prompt, and
    `group_baseline` compares them. Their own tokens are trained; the prefix, which may hold the
    mistake, is what they begin with, and keeps the log-probabilities it was sampled with. keep:
    "all", an unbiased gradient for what may follow the prefix; "correct", only those better than
    their group.
    """

    def extended(groups: Sequence[Group]) -> list[list[Sample]]:
        result = []
        for group, samples in zip(groups, credit(groups), strict=True):
            compared = group_baseline([continued for _, continued in group.continuations])
            added = []
            for (prefix, _), continuations in zip(group.continuations, compared, strict=True):
                added += [
                    _train_continuation(prefix, sample)
                    for sample in continuations
                    if keep == "all" or sample.advantages[-1] > 0
                ]
            result.append([*samples, *added])
        return result

    return extended


def _train_continuation(prefix: Prefix, sample: Sample) -> Sample:
    """The sample with only the tokens after the prefix trained."""
    prefix.rollout.require_single_turn("learning from continuations")
    start = len(prefix.rollout.prompt_ids) + prefix.length
    return replace(
        sample,
        mask=[False] * start + sample.mask[start:],
        advantages=[0.0] * start + sample.advantages[start:],
    )
