"""What each step of an answer was worth: values before and after it, and their differences (arXiv 2406.14532, Eq. 3).

Schemes turn them into token advantages, each in a file of its own; what they share is here.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from rlcore.credit.group import Credit
from rlcore.errors import RecipeError
from rlcore.plugin import call
from rlcore.types import Group, Sample, StepValues

Values = Callable[..., Mapping[str, StepValues]]
"""`(groups, answers=...) -> step values by rollout id`: `MonteCarlo`, `Siblings`, or values that were stored."""

SCHEMES = {
    "per_step": "rlcore.credit.per_step:per_step",
    "first_pit": "rlcore.credit.first_pit:first_pit",
    "vine": "rlcore.credit.vine:vine",
    "negative_only": "rlcore.credit.negative_only:negative_only",
}
"""Name in a recipe -> where it is. A scheme is made as `scheme(credit, values, **parameters)` and gives a `Credit`: `credit` is
what group baselines make of the answers, groups without variance kept."""


def by_step(sample: Sample, values: StepValues, advantages: Sequence[float | None]) -> Sample:
    """The sample with `advantages` [L] of its steps on their tokens; tokens of a step with None are not trained."""
    if len(advantages) != len(values.spans):
        raise ValueError(
            f"the {len(values.spans)} steps of {sample.id!r} need an advantage each, not {len(advantages)}"
        )
    each = [a for span, a in zip(values.spans, advantages, strict=True) for _ in range(*span)]
    if len(each) != sum(sample.mask):
        raise ValueError(
            f"the steps of {sample.id!r} have {len(each)} tokens, but {sum(sample.mask)} of its tokens are trained"
        )
    answer = iter(each)
    token_wise = [next(answer) if on else None for on in sample.mask]
    return replace(
        sample, mask=[a is not None for a in token_wise], advantages=[a or 0.0 for a in token_wise]
    )


def checked_scheme(owner: str, scheme: Credit) -> Credit:
    """Somebody's own scheme, what it gives looked at. Raises `RecipeError` for anything but a list of samples a group."""
    if not callable(scheme):
        raise RecipeError(
            f"{owner} must give a function from groups to samples, not a {type(scheme).__name__}"
        )

    def whole(groups: Sequence[Group]) -> list[list[Sample]]:
        made = call(owner, scheme, groups)
        if (
            not isinstance(made, list)
            or len(made) != len(groups)
            or not all(isinstance(samples, list) for samples in made)
        ):
            found = (
                f"a list of {len(made)}" if isinstance(made, list) else f"a {type(made).__name__}"
            )
            raise RecipeError(
                f"{owner} must give a list of samples for each of {len(groups)} groups, not {found}"
            )
        for group, samples in zip(groups, made, strict=True):
            ids = [sample.id if isinstance(sample, Sample) else None for sample in samples]
            if None in ids or len(set(ids)) < len(ids):
                raise RecipeError(
                    f"{owner} must give each answer to task {group.task.id!r} once, as a Sample, not {ids}"
                )
        return made

    return whole


def group_advantage(sample: Sample) -> float:
    """The advantage that all trained tokens of a group baseline's sample share."""
    return next((a for a, on in zip(sample.advantages, sample.mask, strict=True) if on), 0.0)


def reward_spread(group: Group, epsilon: float = 1e-4) -> float:
    """What baseline "mean_std" divides by: the deviation of the group's rewards over n - 1, plus epsilon; 1 below two."""
    rewards = [verdict.value for verdict in group.verdicts if verdict.value is not None]
    return statistics.stdev(rewards) + epsilon if len(rewards) > 1 else 1.0


def without_zeros(credit: Credit) -> Credit:
    """Leaves out samples without an advantage other than 0, so that the averages of the objective do not count them either.

    What `zero_variance="drop"` means here: in a group of wrong answers those whose steps were valued stay, the others go.
    """

    def teaches(sample: Sample) -> bool:
        return any(a and on for a, on in zip(sample.advantages, sample.mask, strict=True))

    return lambda groups: [
        [sample for sample in samples if teaches(sample)] for samples in credit(groups)
    ]
