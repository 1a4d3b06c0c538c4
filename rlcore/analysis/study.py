"""Studies: a recipe in several variants (cells), each with several seeds, from a common start.

    from rlcore.analysis.study import run_study
    from rlcore.analysis.study_results import study_table

    results = run_study(
        "papers/sec/arithmetic",
        {"random": ["stages.rl.curriculum=uniform"], "sec": []},
        seeds=range(3),
        folder=Path("runs/sec"),
        measures={"outside": lambda run: run.accuracy["outside"]},
    )
    print(study_table(results))

The stages before the first rl stage, or before the stage that `first` names, are run once (or once per
seed), and every cell continues from there. Values are written to `results.json` in the folder (`rlcore.analysis.study_results` has the
format) after every run. A study that is started again reads finished runs and continues unfinished
ones; with other settings it refuses."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rlcore.analysis.study_results import Point, StudyResults, Value, study_table
from rlcore.errors import RecipeError
from rlcore.recipe.load import find, load
from rlcore.recipe.schema import Recipe
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows
from rlcore.terminal import one_sentence_errors


@dataclass(frozen=True, slots=True)
class CellRun:
    """What one cell with one seed left in its run folder, for measures to read."""

    cell: str
    seed: int
    evals: dict[str, dict[str, Any]]
    """The row of each eval stage by the stage's name, those of the start included."""
    rows: list[dict[str, Any]]
    """metrics.jsonl of the cell's own training stages."""
    folder: Path

    @property
    def accuracy(self) -> dict[str, float]:
        """By the name of the eval stage."""
        return {name: row["accuracy"] for name, row in self.evals.items()}

    @property
    def length(self) -> dict[str, float]:
        """Mean completion tokens, by the name of the eval stage."""
        return {name: row["completions/length/mean"] for name, row in self.evals.items()}

    @property
    def tokens(self) -> int:
        """Completion tokens generated for training."""
        return sum(row.get("tokens/completion", 0) for row in self.rows)

    @property
    def steps(self) -> int:
        return len(self.rows)

    @property
    def frac_wasted(self) -> float:
        """Fraction of the completion tokens that reached no gradient."""
        wasted = 0.0
        for row in self.rows:
            if "tokens/frac_wasted" in row:
                wasted += row["tokens/frac_wasted"] * row["tokens/completion"]
        return wasted / max(1, self.tokens)


Measures = Mapping[str, Callable[[CellRun], Value]]
Curves = Callable[[CellRun], Mapping[str, Sequence[Point]]]
"""Gives the lines of one run by name, for plots."""


def run_study(
    recipe: str,
    cells: Mapping[str, Sequence[str]],
    *,
    seeds: Sequence[int],
    folder: Path,
    measures: Measures,
    curves: Curves | None = None,
    common: Sequence[str] = (),
    start_per_seed: bool = False,
    first: str | None = None,
) -> StudyResults:
    """Run every cell (name -> overrides of the recipe) with every seed, and record its measures and
    curves.

    common: overrides of all cells and of the start. first: name of the stage from which cells
    differ; default: the first rl stage. A cell may replace stages from there on by others. With
    `start_per_seed` each seed has a start of its own. The results also hold cells and seeds of
    earlier calls on the folder, and of other processes that work on other seeds meanwhile."""
    resolved = load(recipe, common)
    cut = _first_stage(resolved, first)
    settings = {
        "overrides": list(common),
        "start_per_seed": start_per_seed,
        "recipe": recipe_settings(recipe, resolved),
    }
    stated = settings | {"recipe": recipe_settings(recipe, resolved, stated=True)}
    results = StudyResults.open(
        folder / "results.json", recipe=resolved.name, settings=settings, stated=stated
    )
    for cell, overrides in cells.items():
        results.cell(cell, overrides)
    for seed in seeds:
        unfinished = [cell for cell in cells if not results.has(cell, seed, measures)]
        if not unfinished:
            continue
        start = _run_start(recipe, common, cut, folder, seed if start_per_seed else None)
        for cell in unfinished:
            started = time.perf_counter()
            overrides = [*common, *cells[cell]]
            run = _run_cell(recipe, overrides, cut, folder, cell, seed, start)
            results.add(
                cell,
                seed,
                {name: measure(run) for name, measure in measures.items()},
                curves=curves(run) if curves else {},
                overrides=cells[cell],
                seconds=time.perf_counter() - started,
            )
    results.save()
    return results


def recipe_settings(name: str, recipe: Recipe, *, stated: bool = False) -> dict[str, Any]:
    """The keys of a recipe that its results depend on: not its name, run folder, or where it lies.

    stated: without those that have their default.
    """
    keys = recipe.model_dump(mode="json", exclude={"name", "run"}, exclude_defaults=stated)
    # parts in files beside the recipe were given their whole path when it was loaded
    prefix = f"{find(name).parent}/"
    return json.loads(json.dumps(keys).replace(json.dumps(prefix)[1:-1], ""))


def after(recipe: Recipe, cut: int, checkpoint: Path | None) -> Recipe:
    """The recipe's stages from number `cut` on, starting from a checkpoint, with all model keys.

    checkpoint: None where the stages before `cut` train nothing: what follows then begins with the recipe's own model.
    """
    model = recipe.model
    if checkpoint is not None:
        source = {"path": str(checkpoint), "config": None, "tokenizer": None}
        model = model.model_copy(update=source)
    return recipe.model_copy(update={"stages": recipe.stages[cut:], "model": model})


def study_arguments(text: str, folder: Path, *, seeds: int = 3) -> argparse.ArgumentParser:
    """A parser with the options that the commands of all studies have."""
    parser = argparse.ArgumentParser(description=text.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller version of the study")
    parser.add_argument(
        "--seeds",
        type=seed_numbers,
        default=str(seeds),
        help=f"how many, from 0 on, or which: 3-4; default {seeds}",
    )
    parser.add_argument("--folder", type=Path, default=folder, help="for runs and results.json")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print results.json in one line")
    output.add_argument(
        "--table",
        action="store_true",
        help="print the table of the results so far and run nothing",
    )
    return parser


def seed_numbers(text: str) -> range:
    """ "3" is 0, 1, 2; "3-4" is 3, 4."""
    first, dash, last = text.partition("-")
    try:
        numbers = range(int(first), int(last) + 1) if dash else range(int(first))
    except ValueError:
        numbers = range(0)
    if not numbers:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seeds, nor a range like 3-4"
        )
    return numbers


def show_results(
    results: StudyResults,
    *,
    as_json: bool,
    table: Callable[[StudyResults], str] = study_table,
) -> None:
    """Print what a study found: one line of JSON, or its table in Markdown."""
    if as_json:
        print(json.dumps(results.as_dict()))
        return
    print(table(results))
    print(f"\nresults are in {results.path}")


def study_main(
    text: str,
    recipe: Path,
    cells: Mapping[str, Sequence[str]],
    measures: Measures,
    *,
    quick: Sequence[str] = (),
    quick_cells: Sequence[str] | None = None,
    first: str | None = None,
    table: Callable[[StudyResults], str] = study_table,
) -> None:
    """The command of a study: `[--quick] [--seeds N] [--folder F] [--json | --table]`.

    Each seed has a start of its own. --quick is one seed with the overrides `quick`, of the cells `quick_cells` or of all.
    first: as of `run_study`. table: what is printed of the results.
    """
    parser = study_arguments(text, Path("runs/papers") / recipe.parent.name)
    arguments = parser.parse_args()
    folder = arguments.folder / ("quick" if arguments.quick else "full")
    if arguments.quick and quick_cells is not None:
        cells = {name: cells[name] for name in quick_cells}
    with one_sentence_errors():
        if arguments.table:
            print(table(StudyResults.read(folder / "results.json")))
            return
        results = run_study(
            str(recipe),
            cells,
            seeds=range(1) if arguments.quick else arguments.seeds,
            folder=folder,
            measures=measures,
            common=quick if arguments.quick else (),
            start_per_seed=True,
            first=first,
        )
    show_results(results, as_json=arguments.json, table=table)


def _run_start(
    recipe: str, common: Sequence[str], cut: int, folder: Path, seed: int | None
) -> RunFolder | None:
    """The run of the stages that all cells have in common, None without any; seed: None for the recipe's own."""
    if cut == 0:
        return None
    overrides = [*common, f"run.folder={folder}", "name=start"]
    if seed is not None:
        overrides += [f"name=start-{seed}", f"seed={seed}"]
    start = load(recipe, overrides)
    stages = start.stages[:cut]
    train(start.model_copy(update={"stages": stages}), resume=True, console=Console(quiet=True))
    return RunFolder(folder / start.name)


def _run_cell(
    recipe: str,
    overrides: Sequence[str],
    cut: int,
    folder: Path,
    cell: str,
    seed: int,
    start: RunFolder | None,
) -> CellRun:
    name = f"{re.sub('[^A-Za-z0-9]+', '_', cell)}-{seed}"
    varied = load(recipe, [*overrides, f"run.folder={folder}", f"seed={seed}", f"name={name}"])
    before: list[dict[str, Any]] = []
    if start is not None:
        saved = all_checkpoints(start.checkpoints)
        varied = after(varied, cut, saved[-1] if saved else None)
        before = read_rows(start.evals)
    train(varied, resume=True, console=Console(quiet=True))
    run = RunFolder(folder / name)
    evals = {row["stage"]: row for row in [*before, *read_rows(run.evals)]}
    return CellRun(cell, seed, evals, read_rows(run.metrics), run.path)


def _first_stage(recipe: Recipe, name: str | None) -> int:
    """Number of the stage called `name`; None: of the first rl stage."""
    for i, stage in enumerate(recipe.stages):
        if stage.label == name or (name is None and stage.kind == "rl"):
            return i
    wanted = "rl stage" if name is None else f"stage {name!r}"
    raise RecipeError(f"the recipe {recipe.name} has no {wanted} to study")
