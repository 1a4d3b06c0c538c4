"""Filters: which finished groups enter the batch. One that is rejected is replaced by another task.

A recipe names one, or several that must all accept: `filter: zero_variance`, `filter: {use:
pass_rate, low: 0.1, high: 0.9}`, `filter: [unscorable, {use: "my_filters.py:short", tokens:
200}]`. A filter is a function that takes its parameters and returns the test of a group: `(group,
version) -> accepted`, with the policy's present version.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rlcore.errors import RecipeError, RewardError
from rlcore.plugin import call, signature
from rlcore.types import Group

Filter = Callable[[Group, int], bool]

FILTERS = {
    "zero_variance": "rlcore.curriculum.filter:zero_variance",
    "pass_rate": "rlcore.curriculum.filter:pass_rate",
    "staleness": "rlcore.curriculum.filter:staleness",
    "unscorable": "rlcore.curriculum.filter:unscorable",
}
"""Name in a recipe -> where it is."""


def zero_variance(*, part: str | None = None) -> Filter:
    """Accepts groups whose scores are not all equal: DAPO's dynamic sampling (arXiv 2503.14476).

    part: the reward that decides, by name; default the first of the stage, which should be the
    accuracy. Shaped rewards, such as one on length, differ within groups that are all wrong and
    would let them through.
    """
    return lambda group, version: len(set(scores(group, part))) > 1


def pass_rate(*, low: float = 0.0, high: float = 1.0, part: str | None = None) -> Filter:
    """Accepts groups whose mean score is strictly between `low` and `high`; `part` as in
    `zero_variance`.
    """
    if not low < high:
        raise RecipeError(
            f"filter pass_rate: low is {low} and high is {high}; low must be smaller"
        )

    def accepts(group: Group, version: int) -> bool:
        values = scores(group, part)
        return bool(values) and low < sum(values) / len(values) < high

    return accepts


def staleness(*, at_most: int = 0) -> Filter:
    """Accepts groups whose oldest token was written at most `at_most` policy versions ago."""

    def accepts(group: Group, version: int) -> bool:
        oldest = [rollout.version_min for rollout in group.rollouts]
        written = [number for number in oldest if number is not None]
        return version - min(written, default=version) <= at_most

    return accepts


def unscorable(*, at_least: int = 2) -> Filter:
    """Accepts groups with at least `at_least` scored completions: what timed out, crashed or was
    cut has no score.
    """
    return lambda group, version: (
        sum(verdict.value is not None for verdict in group.verdicts) >= at_least
    )


def checked_filter(owner: str, filter: Filter) -> Filter:
    """A filter, with its results checked. Raises `RecipeError` for anything but True and False."""
    if not callable(filter):
        raise RecipeError(
            f"{owner} must give a function (group, version) -> bool, not a {type(filter).__name__}"
        )
    try:
        signature(filter).bind(None, 0)
    except TypeError as error:
        raise RecipeError(
            f"{owner} must give a function (group, version) -> bool; what it gave: {error}"
        ) from None

    def accepts(group: Group, version: int) -> bool:
        verdict = call(owner, filter, group, version)
        if not isinstance(verdict, bool | np.bool_):
            raise RecipeError(
                f"{owner} must give a function (group, version) -> bool; what it gave returned {verdict!r}"
            )
        return bool(verdict)

    return accepts


def scores(group: Group, part: str | None) -> list[float]:
    """Scores of the scored completions by one part (default the first; the whole reward where there
    are no parts).

    Raises `RewardError` if no reward is called so.
    """
    scored = [verdict for verdict in group.verdicts if verdict.value is not None]
    values: list[float] = []
    for verdict in scored:
        name = part if part is not None else next(iter(verdict.parts), None)
        if name is not None and name not in verdict.parts:
            raise RewardError(
                f"the filter looks at the reward {name!r}, but there are: {', '.join(verdict.parts) or '(none)'}"
            )
        value = verdict.value if name is None else verdict.parts[name]
        if value is not None:
            values.append(value)
    return values
