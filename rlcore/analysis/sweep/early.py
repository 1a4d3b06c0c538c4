"""Trials that are stopped early, because their first steps look worse than those of the trials before.

For example by the rule of the guide to the fine-tuning of small language models (arXiv 2412.13337):
a low gradient norm and a high loss in the first steps predict a good model. With one sign and a
share of 1/2 it is close to the median rule of Vizier and of optuna's `MedianPruner`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import correlation, fmean
from typing import Any

from rlcore.errors import RecipeError
from rlcore.recipe.schema import Recipe
from rlcore.run.folder import RunFolder, read_rows

Signs = Mapping[str, float | None]
"""Mean of each metric over the first steps, by `stage/metric`; None where it is not finite."""


class TrialStopped(Exception):
    """Ends the run of a trial; the text says why."""


@dataclass(frozen=True)
class EarlyStop:
    """When a trial is stopped."""

    lower_is_better: Mapping[str, bool]
    """By `stage/metric`; the metrics are of one stage."""
    after: int = 10
    """Steps of the stage."""
    share: float = 0.5
    """A trial is stopped if more than this share of the trials before it were better."""
    first: int = 4
    """So many trials are never stopped."""

    @classmethod
    def parse(cls, signs: Sequence[str], **settings: Any) -> EarlyStop:
        """signs: `low:sft/grad_norm` or `high:sft/loss`: what a good trial has. Raises `RecipeError`."""
        lower_is_better = {}
        for text in signs:
            kind, _, name = text.partition(":")
            if kind not in ("low", "high") or not all(name.partition("/")):
                raise RecipeError(
                    f"--stop-on {text!r}: write low:STAGE/METRIC or high:STAGE/METRIC"
                )
            lower_is_better[name] = kind == "low"
        stages = sorted({name.partition("/")[0] for name in lower_is_better})
        if len(stages) > 1:
            raise RecipeError(
                f"--stop-on names metrics of several stages ({', '.join(stages)}): name one stage"
            )
        return cls(lower_is_better, **settings)

    @property
    def stage(self) -> str:
        return next(iter(self.lower_is_better)).partition("/")[0]

    def check(self, recipe: Recipe) -> None:
        """Raise `RecipeError` unless the recipe has such a stage, and enough steps of it."""
        steps = {s.label: s.steps for s in recipe.stages if hasattr(s, "steps")}
        if self.stage not in steps:
            raise RecipeError(
                f"--stop-on names {self.stage!r}, which is no stage with steps of the recipe: {', '.join(steps)}"
            )
        if steps[self.stage] < self.after:
            raise RecipeError(
                f"--stop-after {self.after} is more than the {steps[self.stage]} steps of stage {self.stage}"
            )

    def signs(self, run: RunFolder) -> dict[str, float | None] | None:
        """Means over the first steps of a run; None before it has made so many.

        Raises `RecipeError` for a metric that the stage does not have.
        """
        rows = [row for row in read_rows(run.metrics) if row.get("stage") == self.stage]
        rows = rows[: self.after]
        if len(rows) < self.after:
            return None
        means: dict[str, float | None] = {}
        for name in self.lower_is_better:
            key = name.partition("/")[2]
            numbers = [row[key] for row in rows if isinstance(row.get(key), int | float)]
            if not numbers:
                raise RecipeError(
                    f"--stop-on: the first {self.after} steps of stage {self.stage} have no number {key!r}"
                )
            mean = fmean(numbers)
            means[name] = mean if math.isfinite(mean) else None
        return means

    def verdict(self, signs: Signs, before: Sequence[Signs]) -> str | None:
        """Why a trial is stopped, or None. before: the signs of the trials before it."""
        if len(before) < self.first:
            return None
        own, *others = self._mean_ranks([signs, *before])
        better = sum(rank < own for rank in others)
        if better <= self.share * len(others):
            return None
        shown = ", ".join(
            f"{name} {'not finite' if value is None else format(value, '.4g')}"
            for name, value in signs.items()
        )
        return f"after {self.after} steps {better} of {len(others)} trials before it were better ({shown})"

    def _mean_ranks(self, trials: Sequence[Signs]) -> list[float]:
        """Mean over the signs of each trial's rank; 0 is best, and what is not finite is worst."""
        columns = []
        for name, is_lower in self.lower_is_better.items():
            sign = 1 if is_lower else -1
            values = [trial[name] for trial in trials]
            costs = [math.inf if value is None else sign * value for value in values]
            columns.append(ranks(costs))
        return [fmean(row) for row in zip(*columns, strict=True)]


class Watch:
    """A callback that stops the run of one trial."""

    def __init__(self, rule: EarlyStop, run: RunFolder, before: Sequence[Signs]) -> None:
        self._rule = rule
        self._run = run
        self._before = before
        self.signs: Signs | None = None

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        """Raises `TrialStopped`. The steps before a kill count: they are read from the run's file."""
        if self.signs is not None or metrics["stage"] != self._rule.stage:
            return
        self.signs = self._rule.signs(self._run)
        why = self.signs and self._rule.verdict(self.signs, self._before)
        if why:
            raise TrialStopped(why)


def ranks(values: Sequence[float]) -> list[float]:
    """Rank of each value from 0; equal ones share the mean of their ranks."""
    ordered = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(ordered)))}
    return [first[value] + (ordered.count(value) - 1) / 2 for value in values]


def rank_correlation(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Spearman's; None for fewer than three pairs, or where all of one side are equal."""
    if len(left) < 3 or len(set(left)) == 1 or len(set(right)) == 1:
        return None
    return correlation(ranks(left), ranks(right))
