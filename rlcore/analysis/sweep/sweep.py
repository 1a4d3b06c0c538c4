"""Runs of one recipe with values that a search proposes; each is a cell of a study, so a sweep can go on."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console

from rlcore.analysis.study import recipe_settings
from rlcore.analysis.study_results import StudyResults, markdown, origin
from rlcore.analysis.sweep.search import proposals
from rlcore.analysis.sweep.space import Dimension, override
from rlcore.errors import RecipeError, RlcoreError, RunError
from rlcore.recipe.load import load
from rlcore.recipe.schema import Recipe
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.plots import panels_svg

FAILED = "failed"
"""In `derived` of the results: trial -> why it has no value."""


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
    say: Callable[[str], None] = field(default=print)

    def settings(self, recipe: Recipe) -> dict[str, Any]:
        """What the results depend on, but for the numbers of trials and seeds, which may grow. recipe: the loaded one."""
        return {
            "overrides": list(self.overrides),
            "recipe": recipe_settings(self.recipe, recipe),
            "space": [[d.key, d.kind, list(d.values)] for d in self.space],
            "search": self.search,
            "search_seed": self.search_seed,
            "metric": self.metric or "accuracy",
            "maximise": self.maximise,
        }


def run_sweep(sweep: Sweep) -> StudyResults:
    """Run all trials that are not finished; the results are in `results.json` and `sweep.svg` of the folder.

    A trial that fails with a sentence is recorded and the sweep goes on. Raises `RecipeError` where a
    key or value of the space is none of the recipe, before anything runs, and where all trials fail.
    """
    if sweep.trials is None and sweep.search != "grid":
        raise RecipeError(f"--search {sweep.search} has no end: set --trials")
    recipe = load(sweep.recipe, sweep.overrides)
    results = StudyResults.open(
        sweep.folder / "results.json", recipe=recipe.name, settings=sweep.settings(recipe)
    )
    results.derived.setdefault(FAILED, {})
    asked = proposals(
        sweep.space, sweep.search, maximise=sweep.maximise, seed=sweep.search_seed
    )
    for number, (proposed, tell) in enumerate(itertools.islice(asked, sweep.trials)):
        overrides = [override(key, value) for key, value in proposed.items()]
        trial = f"trial_{number:03d}"
        if number == 0:
            load(sweep.recipe, [*sweep.overrides, *overrides])  # a wrong key ends it here
        value = _value(sweep, results, trial, overrides)
        tell(value)
        _draw(sweep, results)
    if results.cells and not _valued(results):
        raise RunError(
            f"all {len(results.cells)} trials failed, the first with: {next(iter(results.derived[FAILED].values()))}"
        )
    return results


def _value(
    sweep: Sweep, results: StudyResults, trial: str, overrides: Sequence[str]
) -> float | None:
    """The mean over the seeds, from the results or from new runs; None where one failed."""
    failed = results.derived[FAILED]
    results.cell(trial, overrides)
    for seed in range(sweep.seeds):
        if trial in failed:
            break
        if results.has(trial, seed, ["value"]):
            continue
        started = time.perf_counter()
        try:
            value = _run(sweep, f"{trial}_{seed}", [*overrides, f"seed={seed}"])
        except RlcoreError as error:
            failed[trial] = str(error)
            results.save()
            break
        results.add(
            trial,
            seed,
            {"value": value},
            overrides=overrides,
            seconds=time.perf_counter() - started,
        )
    if trial in failed:
        sweep.say(f"{trial}: {', '.join(overrides)}  failed: {failed[trial]}")
        return None
    mean = fmean(v for v in results.values(trial, "value") if v is not None)
    sweep.say(f"{trial}: {', '.join(overrides)}  {mean:.4g}")
    return mean


def _run(sweep: Sweep, name: str, overrides: Sequence[str]) -> float:
    """One run; the value of its metric. Raises `RlcoreError`."""
    own = [f"run.folder={sweep.folder}", f"name={name}"]
    recipe = load(sweep.recipe, [*sweep.overrides, *overrides, *own])
    train(recipe, resume=True, console=Console(quiet=True))
    return read_metric(RunFolder(sweep.folder / name), sweep.metric)


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


def _valued(results: StudyResults) -> dict[str, float]:
    """Mean value of each trial that has one, in order."""
    failed = results.derived[FAILED]
    means = {
        cell: results.summary(cell, "value").mean
        for cell in results.cells
        if cell not in failed
    }
    return {cell: mean for cell, mean in means.items() if mean is not None}


def sweep_table(results: StudyResults) -> str:
    """Trials from the best to the worst, then those that failed, as Markdown."""
    values = _valued(results)
    maximise = results.settings["maximise"]
    ordered = sorted(values, key=lambda cell: values[cell], reverse=maximise)
    keys = [key for key, _, _ in results.settings["space"]]
    rows = []
    for trial in [*ordered, *results.derived[FAILED]]:
        parameters = _parameters(results.cells[trial].overrides)
        why = results.derived[FAILED].get(trial)
        text = f"failed: {why}" if why else results.summary(trial, "value").text(".4g")
        rows.append([trial, *(_short(parameters[key]) for key in keys), text])
    metric = results.settings["metric"]
    return f"{markdown(['trial', *keys, metric], rows)}\n\n{origin(results)}"


def _parameters(overrides: Sequence[str]) -> Mapping[str, Any]:
    pairs = (text.partition("=") for text in overrides)
    return {key: json.loads(value) for key, _, value in pairs}


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _draw(sweep: Sweep, results: StudyResults) -> None:
    """`sweep.svg`: the value of each trial, and the best one up to it."""
    values = list(_valued(results).values())
    best = list(itertools.accumulate(values, max if sweep.maximise else min))
    lines = {"trial": list(enumerate(values)), "best so far": list(enumerate(best))}
    picture = panels_svg({results.settings["metric"]: lines}, x="trial", y="value")
    (sweep.folder / "sweep.svg").write_text(picture, encoding="utf-8")
