"""What schemes have in common: they turn the step values of groups into one advantage per token.

A value Q_i belongs to the first i steps of a completion, and A_i = Q_i - Q_(i-1) is what step i
was worth (arXiv 2406.14532, Eq. 3). Estimators put the values on the groups
(`Group.step_values`), and so does the reader of stored rollouts. Each scheme has a file of its
own.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from rlcore.credit.estimator import Completions, check_completions, require_single_turn
from rlcore.credit.group import Credit, scored_rollouts
from rlcore.errors import RecipeError
from rlcore.plugin import call
from rlcore.types import Group, Sample, StepValues

SCHEMES = {
    "per_step": "rlcore.credit.per_step:per_step",
    "first_pit": "rlcore.credit.first_pit:first_pit",
    "vine": "rlcore.credit.vine:vine",
    "negative_only": "rlcore.credit.negative_only:negative_only",
}
"""Name in a recipe -> where it is.

A scheme is made as `scheme(credit, **parameters)` and gives a `Credit` that reads
`group.step_values`. `credit` is what group baselines make of the completions, groups without
variance kept."""

Scheme = TypeVar("Scheme", bound=Callable[..., Credit])
Change = Callable[[Group, Sample, StepValues | None], Sample | None]
"""From a sample of a group, with its step values if there are any, to the sample with new
advantages or to nothing.
"""


def values_of(completions: Completions) -> Callable[[Scheme], Scheme]:
    """Decorator that says which completions a scheme wants to be valued, where the recipe does
    not say.

    Example: `@values_of("all")`. Schemes without it want negatives.
    """
    check_completions(completions)

    def decorate(scheme: Scheme) -> Scheme:
        scheme.values_of = completions
        return scheme

    return decorate


def change_samples(credit: Credit, change: Change) -> Credit:
    """The samples of `credit` as `change` makes them; those for which it gives None are left out."""

    def changed(groups: Sequence[Group]) -> list[list[Sample]]:
        require_single_turn(groups, "credit for reasoning steps", with_environment=True)
        result = []
        for group, samples in zip(groups, credit(groups), strict=True):
            new = [
                change(group, sample, group.step_values.get(sample.id)) for sample in samples
            ]
            result.append([sample for sample in new if sample is not None])
        return result

    return changed


def by_step(sample: Sample, values: StepValues, advantages: Sequence[float | None]) -> Sample:
    """The sample with `advantages` [L] of its steps on their tokens; tokens of a step with None
    are not trained.
    """
    if len(advantages) != len(values.spans):
        raise ValueError(
            f"the {len(values.spans)} steps of {sample.id!r} need an advantage each, "
            f"not {len(advantages)}"
        )
    of_tokens: list[float | None] = []
    for span, advantage in zip(values.spans, advantages, strict=True):
        of_tokens += [advantage] * (span.end - span.start)
    if len(of_tokens) != sum(sample.mask):
        raise ValueError(
            f"the steps of {sample.id!r} have {len(of_tokens)} tokens, "
            f"but {sum(sample.mask)} of its tokens are trained"
        )
    remaining = iter(of_tokens)
    token_advantages = [next(remaining) if trained else None for trained in sample.mask]
    return replace(
        sample,
        mask=[advantage is not None for advantage in token_advantages],
        advantages=[advantage or 0.0 for advantage in token_advantages],
    )


def checked_scheme(owner: str, scheme: Credit) -> Credit:
    """A scheme of the user's own, with its results checked.

    Raises `RecipeError` for anything but a list of samples for each group, and for multi-turn
    rollouts.
    """
    if not callable(scheme):
        raise RecipeError(
            f"{owner} must give a function from groups to samples, not a {type(scheme).__name__}"
        )

    def checked(groups: Sequence[Group]) -> list[list[Sample]]:
        require_single_turn(groups, "credit for reasoning steps", with_environment=True)
        result = call(owner, scheme, groups)
        _check_lists(owner, result, len(groups))
        for group, samples in zip(groups, result, strict=True):
            _check_samples(owner, group, samples)
        return result

    return checked


def _check_lists(owner: str, result: object, n: int) -> None:
    if not isinstance(result, list):
        given = f"a {type(result).__name__}"
    elif len(result) != n or not all(isinstance(samples, list) for samples in result):
        given = f"a list of {len(result)}"
    else:
        return
    raise RecipeError(
        f"{owner} must give a list of samples for each of {n} groups, not {given}"
    )


def _check_samples(owner: str, group: Group, samples: list) -> None:
    ids = [sample.id if isinstance(sample, Sample) else None for sample in samples]
    if None in ids or len(set(ids)) < len(ids):
        raise RecipeError(
            f"{owner} must give each completion of task {group.task.id!r} once, as a Sample, "
            f"not {ids}"
        )


def group_advantage(sample: Sample) -> float:
    """The advantage that all trained tokens of a group baseline's sample have."""
    pairs = zip(sample.advantages, sample.mask, strict=True)
    return next((advantage for advantage, trained in pairs if trained), 0.0)


def reward_spread(group: Group, epsilon: float = 1e-4) -> float:
    """What baseline "mean_std" divides by: the deviation of the group's rewards over n - 1, plus
    epsilon; 1 below two.
    """
    rewards = [verdict.value for _, verdict in scored_rollouts(group)]
    return statistics.stdev(rewards) + epsilon if len(rewards) > 1 else 1.0


def without_zeros(credit: Credit) -> Credit:
    """Leaves out samples whose advantages are all 0, so that the averages of the objective do not
    count them either.

    This is what `zero_variance="drop"` means for step credit: in a group of wrong completions
    those whose steps were valued stay, the others go.
    """

    def teaches(sample: Sample) -> bool:
        pairs = zip(sample.advantages, sample.mask, strict=True)
        return any(advantage != 0 for advantage, trained in pairs if trained)

    def kept(groups: Sequence[Group]) -> list[list[Sample]]:
        return [[sample for sample in samples if teaches(sample)] for samples in credit(groups)]

    return kept
