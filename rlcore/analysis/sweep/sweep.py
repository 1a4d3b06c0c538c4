"""Runs of one recipe with values that a search proposes; each is a cell of a study, so a sweep can go on."""

from __future__ import annotations

import itertools
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from rlcore.analysis.study import recipe_settings
from rlcore.analysis.study_results import StudyResults
from rlcore.analysis.sweep.early import EarlyStop, TrialStopped, Watch
from rlcore.analysis.sweep.search import proposals
from rlcore.analysis.sweep.shown import (
    EARLY,
    FAILED,
    RUNG,
    STOPPED,
    best_first,
    draw,
    rung_of,
    valued,
)
from rlcore.analysis.sweep.space import Dimension, override
from rlcore.errors import RecipeError, RlcoreError, RunError, first_line
from rlcore.plugin import did_you_mean
from rlcore.recipe.load import load
from rlcore.recipe.schema import Recipe
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows

TOLD = "told"
"""In `derived` of the results: trial -> what the search was told, a value, "stopped", or null for a failure."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is searched, and how."""

    recipe: str
    overrides: Sequence[str] = ()
    """Of all trials."""
    space: Sequence[Dimension]
    search: str = "grid"
    trials: int | None = None
    """None: all of a grid."""
    seeds: int = 1
    """Runs of each trial, with the seeds 0, 1, ...; its value is their mean."""
    metric: str | None = None
    """stage/metric, such as `after/accuracy` or `rl/reward/mean`; None: accuracy of the last evaluation."""
    maximise: bool = True
    folder: Path
    search_seed: int = 0
    stop: EarlyStop | None = None
    """When a trial is stopped early; decided by the run with the first seed."""
    fidelity: Dimension | None = None
    """A key with its values from cheap to dear: all trials run with the first, and 1 in `eta` goes on to the next."""
    eta: int = 3
    retry: bool = False
    """Run failed trials once more."""
    say: Callable[[str], None] = field(default=print)

    def rungs(self) -> list[list[str]]:
        """Overrides of each rung, one without any where there is no fidelity. Raises `RecipeError`."""
        if self.fidelity is None:
            return [[]]
        values = self.fidelity.values
        if self.fidelity.kind != "choice" or len(values) < 2:
            raise RecipeError(
                f"--fidelity {self.fidelity.key} needs a list of two values or more, the cheapest first"
            )
        if self.fidelity.key in (dimension.key for dimension in self.space):
            raise RecipeError(f"{self.fidelity.key} is given to --over and to --fidelity")
        return [[override(self.fidelity.key, value)] for value in values]

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """What the results depend on, but for the numbers of trials and seeds, which may grow. recipe: the loaded one."""
        settings = {
            "overrides": list(self.overrides),
            "recipe": recipe_settings(self.recipe, recipe),
            "space": [[d.key, d.kind, list(d.values)] for d in self.space],
            "search": self.search,
            "search_seed": self.search_seed,
            "metric": self.metric or "accuracy",
            "maximise": self.maximise,
        }
        if self.stop is not None:
            settings["stop"] = asdict(self.stop)
        if self.fidelity is not None:
            settings["fidelity"] = {
                "key": self.fidelity.key,
                "values": list(self.fidelity.values),
                "eta": self.eta,
            }
        return settings


def run_sweep(sweep: Sweep) -> StudyResults:
    """Run all trials that are not finished; the results are in `results.json` and `sweep.svg` of the folder.

    A trial that fails is recorded and the sweep goes on. Raises `RecipeError` where a key or value of
    the space is none of the recipe, before anything runs, and `RunError` where all trials fail.
    """
    if sweep.trials is None and sweep.search != "grid":
        raise RecipeError(f"--search {sweep.search} has no end: set --trials")
    recipe = load(sweep.recipe, sweep.overrides)
    results = StudyResults.open(
        sweep.folder / "results.json", recipe=recipe.name, settings=sweep.settings(recipe)
    )
    for name in (FAILED, STOPPED, EARLY, TOLD):
        results.derived.setdefault(name, {})
    if sweep.retry:
        results.derived[FAILED] = {}
    cheap, *dearer = sweep.rungs()
    asked = proposals(
        sweep.space, sweep.search, maximise=sweep.maximise, seed=sweep.search_seed
    )
    trials: dict[str, list[str]] = {}
    for number, (proposed, tell) in enumerate(itertools.islice(asked, sweep.trials)):
        overrides = [override(key, value) for key, value in proposed.items()]
        trial = f"trial_{number:03d}"
        if number == 0:  # a wrong key, value of a list or stage ends it here
            for rung in (cheap, *dearer):
                first = load(sweep.recipe, [*sweep.overrides, *overrides, *rung])
                if sweep.stop is not None:
                    sweep.stop.check(first)
            _check_lists(sweep, overrides)
            _check_metric(sweep.metric, first)
        trials[trial] = overrides
        value = _value(sweep, results, trial, [*overrides, *cheap])
        # What was told once stays: more seeds, or a second attempt, must not change what is proposed.
        outcome = STOPPED if trial in results.derived[STOPPED] else value
        told = results.derived[TOLD].setdefault(trial, outcome)
        results.save()
        tell(None if told == STOPPED else told, told == STOPPED)
        draw(results, sweep.folder)
    _promote(sweep, results, trials, dearer)
    if results.cells and not valued(results):
        raise RunError(
            f"all {len(results.cells)} trials failed, the first with: {next(iter(results.derived[FAILED].values()))}"
        )
    return results


def _promote(
    sweep: Sweep,
    results: StudyResults,
    trials: Mapping[str, Sequence[str]],
    rungs: Sequence[Sequence[str]],
) -> None:
    """Successive halving (arXiv 1502.07943): the best of each rung run anew on the next, dearer one."""
    cells = list(trials)
    for number, rung in enumerate(rungs, 1):
        best = best_first(results, cells)[: max(1, len(cells) // sweep.eta)]
        cells = []
        for cell in best:
            trial = cell.partition(RUNG)[0]
            promoted = f"{trial}{RUNG}{number}"
            _value(sweep, results, promoted, [*trials[trial], *rung])
            cells.append(promoted)
            draw(results, sweep.folder)


def _check_lists(sweep: Sweep, overrides: Sequence[str]) -> None:
    """Raise `RecipeError` for a value of a list that the recipe cannot take, beside the first trial's other values."""
    for dimension in sweep.space:
        if dimension.kind == "choice":
            for value in dimension.values:
                changed = override(dimension.key, value)
                load(sweep.recipe, [*sweep.overrides, *overrides, changed])


def _check_metric(metric: str | None, recipe: Recipe) -> None:
    """Raise `RecipeError` where the recipe has no stage that the metric is of."""
    if metric is None:
        return
    stage = metric.partition("/")[0]
    labels = [one.label for one in recipe.stages]
    if stage not in labels:
        raise RecipeError(
            f"the metric {metric!r} is of no stage of the recipe{did_you_mean(stage, labels)}"
        )


def _value(
    sweep: Sweep, results: StudyResults, trial: str, overrides: Sequence[str]
) -> float | None:
    """The mean over the seeds, from the results or from new runs; None where one failed or was stopped."""
    failed, stopped = results.derived[FAILED], results.derived[STOPPED]
    results.cell(trial, overrides)
    for seed in range(sweep.seeds):
        if trial in failed or trial in stopped:
            break
        if results.has(trial, seed, ["value"]):
            continue
        started = time.perf_counter()
        try:
            value = _run(sweep, results, trial, seed, overrides)
        except TrialStopped as reason:
            stopped[trial] = str(reason)
        except RlcoreError as error:
            failed[trial] = str(error)
        except Exception as error:  # of a reward, a library or a device: of this trial alone
            failed[trial] = f"{type(error).__name__}: {first_line(error)}"
            text = "".join(traceback.format_exception(error))
            sweep.folder.mkdir(parents=True, exist_ok=True)
            (sweep.folder / f"{trial}_{seed}.error.txt").write_text(text, encoding="utf-8")
        else:
            results.add(
                trial,
                seed,
                {"value": value},
                overrides=overrides,
                seconds=time.perf_counter() - started,
            )
    shown = f"{trial}: {', '.join(overrides)}"
    for word, reasons in ((FAILED, failed), (STOPPED, stopped)):
        if trial in reasons:
            results.save()
            sweep.say(f"{shown}  {word}: {reasons[trial]}")
            return None
    mean = fmean(v for v in results.values(trial, "value") if v is not None)
    sweep.say(f"{shown}  {mean:.4g}")
    return mean


def _run(
    sweep: Sweep, results: StudyResults, trial: str, seed: int, overrides: Sequence[str]
) -> float:
    """One run; the value of its metric. Raises `TrialStopped`, and all that a run raises."""
    name = f"{trial}_{seed}"
    own = [f"seed={seed}", f"run.folder={sweep.folder}", f"name={name}"]
    recipe = load(sweep.recipe, [*sweep.overrides, *overrides, *own])
    run = RunFolder(sweep.folder / name)
    quiet = Console(quiet=True)
    if sweep.stop is None or seed > 0:
        train(recipe, resume=True, console=quiet)
        return read_metric(run, sweep.metric)
    early = results.derived[EARLY]
    before = [early[c] for c in early if rung_of(c) == rung_of(trial) and c != trial]
    watch = Watch(sweep.stop, run, before)
    try:
        train(recipe, resume=True, console=quiet, callbacks=[watch])
    finally:
        # a run that was finished before a kill makes no step
        signs = watch.signs or sweep.stop.signs(run)
        if signs:
            early[trial] = signs
    return read_metric(run, sweep.metric)


def read_metric(run: RunFolder, name: str | None) -> float:
    """The last value of a metric, `stage/metric`; None: accuracy of the last evaluation. Raises `RunError`."""
    evals = read_rows(run.evals)
    if name is None:
        if not evals:
            raise RunError(
                f"the run {run.path} has no evaluation: name a metric, as rl/reward/mean"
            )
        return float(evals[-1]["accuracy"])
    stage, _, key = name.partition("/")
    rows = [row for row in [*read_rows(run.metrics), *evals] if row.get("stage") == stage]
    values = [row[key] for row in rows if isinstance(row.get(key), int | float)]
    if not values:
        stages = ", ".join(
            dict.fromkeys(str(row.get("stage")) for row in [*read_rows(run.metrics), *evals])
        )
        raise RunError(
            f"the run {run.path} has no number {key!r} of a stage {stage!r} (its stages: {stages})"
        )
    return _finite(float(values[-1]), name, run)


def _finite(value: float, name: str, run: RunFolder) -> float:
    if not math.isfinite(value):
        raise RunError(f"{name} of the run {run.path} is {value}: the run has diverged")
    return value
