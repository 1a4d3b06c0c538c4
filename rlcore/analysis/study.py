"""Several runs that differ in a few keys, from one common start, for several seeds: what a reproduction of a paper compares.

All stages before the first rl stage are run once (or once a seed); every cell continues from there. A study that is started
again goes on where it was: finished runs are read, not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rlcore.errors import RecipeError
from rlcore.recipe.load import load
from rlcore.recipe.model_sections import ModelSection
from rlcore.recipe.schema import Recipe
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows
from rlcore.stages.rl import RlStage


@dataclass(frozen=True, slots=True)
class CellRun:
    """One cell with one seed."""

    cell: str
    seed: int
    evals: dict[str, dict[str, Any]]
    """Row of each eval stage by its name, those of the start too."""
    rows: list[dict[str, Any]]
    """metrics.jsonl of the cell's own training stages."""
    folder: Path

    @property
    def accuracy(self) -> dict[str, float]:
        """Of each eval stage, by name."""
        return {name: row["accuracy"] for name, row in self.evals.items()}

    @property
    def length(self) -> dict[str, float]:
        """Mean answer tokens of each eval stage."""
        return {name: row["completions/length/mean"] for name, row in self.evals.items()}

    @property
    def tokens(self) -> int:
        """Answer tokens that were written to learn."""
        return sum(row.get("tokens/completion", 0) for row in self.rows)

    @property
    def steps(self) -> int:
        return len(self.rows)

    @property
    def waste(self) -> float:
        """Share of the answer tokens that reached no gradient."""
        return sum(
            row["tokens/frac_wasted"] * row["tokens/completion"]
            for row in self.rows
            if "tokens/frac_wasted" in row
        ) / max(1, self.tokens)


def run_study(
    recipe: str,
    cells: Mapping[str, Sequence[str]],
    *,
    seeds: Sequence[int],
    folder: Path,
    common: Sequence[str] = (),
    start_per_seed: bool = False,
) -> list[CellRun]:
    """Run every cell (its name -> overrides of the recipe) with every seed. `common`: overrides of all, the start too.

    A cell may replace stages from the first rl stage on by others. With `start_per_seed` each seed has a start of its own.
    """
    cut = _first_rl(load(recipe, common))
    found = []
    for seed in seeds:
        own = [*common, f"run.folder={folder}"]
        start = load(
            recipe,
            [*own, f"name=start-{seed}", f"seed={seed}"]
            if start_per_seed
            else [*own, "name=start"],
        )
        train(
            start.model_copy(update={"stages": start.stages[:cut]}),
            resume=True,
            console=Console(quiet=True),
        )
        begun = RunFolder(folder / start.name)
        for cell, overrides in cells.items():
            name = f"{cell}-{seed}".replace(" ", "").replace("+", "_").replace(",", "")
            whole = load(recipe, [*own, *overrides, f"seed={seed}", f"name={name}"])
            train(
                after(whole, cut, all_checkpoints(begun.checkpoints)[-1]),
                resume=True,
                console=Console(quiet=True),
            )
            found.append(_read(cell, seed, begun, RunFolder(folder / name)))
    return found


def after(recipe: Recipe, cut: int, model: Path) -> Recipe:
    """The recipe's stages from number `cut` on, starting from the checkpoint `model`."""
    trained = ModelSection(path=str(model), dtype=recipe.model.dtype, peft=recipe.model.peft)
    return recipe.model_copy(update={"stages": recipe.stages[cut:], "model": trained})


def mean_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation over seeds (0 for one seed)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation as text, "71.0% ± 3.9%"; of one value it alone."""
    mean, spread = mean_spread(values)
    return f"{mean:.1%} ± {spread:.1%}" if len(values) > 1 else f"{mean:.1%}"


def by_cell(runs: Sequence[CellRun]) -> dict[str, list[CellRun]]:
    """The runs of each cell, seeds in order."""
    found: dict[str, list[CellRun]] = {}
    for run in runs:
        found.setdefault(run.cell, []).append(run)
    return found


def study_main(
    text: str,
    recipe: Path,
    cells: Mapping[str, Sequence[str]],
    measures: Mapping[str, Callable[[CellRun], float]],
    *,
    quick: Sequence[str] = (),
    seeds: int = 3,
) -> None:
    """The command of a study, `[--quick] [--seeds N] [--folder F] [--json]`: run it with a start for each seed, and print a
    table of the measures: mean and standard deviation over the seeds. --quick is one seed with the overrides `quick`."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="one seed, shorter where the study says so"
    )
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--folder", type=Path, default=Path("runs/papers") / recipe.parent.name)
    parser.add_argument(
        "--json", action="store_true", help="print one line of JSON instead of a table"
    )
    arguments = parser.parse_args()
    started = time.perf_counter()
    folder, common = (
        (arguments.folder / "quick", quick) if arguments.quick else (arguments.folder / "whole", ())
    )
    runs = run_study(
        str(recipe),
        cells,
        seeds=range(1 if arguments.quick else arguments.seeds),
        folder=folder,
        common=common,
        start_per_seed=True,
    )
    seconds = round(time.perf_counter() - started)
    cells_runs = by_cell(runs).items()
    found = {
        cell: {name: [measure(run) for run in own] for name, measure in measures.items()}
        for cell, own in cells_runs
    }
    if arguments.json:
        print(json.dumps({"seconds": seconds, "cells": found}))
        return
    table = Table("", *found)
    for name in measures:
        table.add_row(
            name,
            *("{:.3f} ± {:.3f}".format(*mean_spread(values[name])) for values in found.values()),
        )
    Console(width=130).print(table)
    print(f"{seconds} s; runs are in {folder}")


def _first_rl(recipe: Recipe) -> int:
    for i, stage in enumerate(recipe.stages):
        if isinstance(stage, RlStage):
            return i
    raise RecipeError(f"the recipe {recipe.name} has no rl stage to study")


def _read(cell: str, seed: int, start: RunFolder, folder: RunFolder) -> CellRun:
    evals = {row["stage"]: row for row in [*read_rows(start.evals), *read_rows(folder.evals)]}
    return CellRun(
        cell=cell, seed=seed, evals=evals, rows=read_rows(folder.metrics), folder=folder.path
    )
