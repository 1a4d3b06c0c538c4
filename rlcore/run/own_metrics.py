"""Metrics of one's own: functions of a finished group that a recipe names in `metrics` of an rl stage.

    metrics: ["my_metrics.py:words"]

    def words(group):
        return sum(len(rollout.text.split()) for rollout in group.rollouts) / len(group.rollouts)

A function returns a number, logged as `metric/<function>`, or a mapping of numbers, logged as `metric/<function>/<key>`. What is
logged is the mean over the groups of all ranks; None is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from rlcore.errors import RecipeError
from rlcore.plugin import Named, build_later, call
from rlcore.types import Group

GroupMetric = Callable[[Group], dict[str, float]]


def build_metrics(named: Sequence[Named]) -> list[GroupMetric]:
    """The functions a recipe names, what they return checked. Raises `RecipeError`."""
    return [_build(name) for name in named]


def _build(named: Named) -> GroupMetric:
    function = build_later(named, {}, what="metric", given=1)
    use = named if isinstance(named, str) else named["use"]
    label = f"metric/{use.rpartition(':')[2]}"

    def measure(group: Group) -> dict[str, float]:
        value = call(f"metric {use!r}", function, group)
        values = value if isinstance(value, Mapping) else {"": value}
        measured = {}
        for key, number in values.items():
            if number is None:
                continue
            if not hasattr(number, "__float__"):
                raise RecipeError(
                    f"metric {use!r} must return a number, a mapping of numbers or None, not a {type(number).__name__}"
                )
            measured[f"{label}/{key}" if key else label] = float(number)
        return measured

    return measure


def measure_groups(
    metrics: Sequence[GroupMetric], groups: Sequence[Group]
) -> list[dict[str, float]]:
    """One mapping a group; small, so that ranks can exchange them."""
    return [{k: v for metric in metrics for k, v in metric(group).items()} for group in groups]


def mean_metrics(measured: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over the groups that have it."""
    values: dict[str, list[float]] = {}
    for of_group in measured:
        for key, value in of_group.items():
            values.setdefault(key, []).append(value)
    return {key: fmean(numbers) for key, numbers in values.items()}
