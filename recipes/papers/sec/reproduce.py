"""SEC (arXiv 2505.14970) on a tiny model: random, ordered and bandit curricula, with and without the zero-variance filter.

    python recipes/papers/sec/reproduce.py [--quick] [--json] [--task arithmetic|mixed|countdown|domains|waste]

Every cell starts from the same imitation-trained model and writes the same number of answer tokens. The table shows accuracy on
held-out problems of the trained levels (inside) and of a level that is never trained (outside): mean and standard deviation over
the seeds. `mixed` is arithmetic with three more levels to train on that the model cannot do at all. `waste` compares filters at the
same number of steps instead: the share of the answer tokens that reach no gradient, with a filter, with a probe, and with a bandit.
The paper's gains over random on its outside levels are +13% to +33%, relative, with models 1000 times larger.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlcore.analysis.study import CellRun, by_cell, percent, run_study
from rlcore.recipe.build import build_tasks
from rlcore.recipe.load import load
from rlcore.run.plots import panels_svg
from rlcore.stages.rl import RlStage

HERE = Path(__file__).resolve().parent
UNIFORM, GATE, SKIP = (
    "stages.rl.curriculum=uniform",
    "stages.rl.filter=zero_variance",
    "stages.rl.prefilter={by: category}",
)
CELLS = {
    "random": (UNIFORM,),
    "ordered": ("stages.rl.curriculum={use: ordered, by: level}",),
    "sec": (),
    "random+filter": (UNIFORM, GATE),
    "random+filter+skip": (UNIFORM, GATE, SKIP),
    "sec+filter": (GATE,),
}
PROBE = "stages.rl.resample={probe: 4}"
WASTE_CELLS = {
    "random": (UNIFORM,),
    "random+filter": (UNIFORM, GATE),
    "random+filter+probe": (UNIFORM, GATE, PROBE),
    "random+filter+skip": (UNIFORM, GATE, SKIP),
    "random+filter+skip+probe": (UNIFORM, GATE, SKIP, PROBE),
    "sec": (),
    "sec+filter": (GATE,),
    "sec+filter+probe": (GATE, PROBE),
}
RECIPES = {
    "arithmetic": "arithmetic",
    "mixed": "arithmetic",
    "waste": "arithmetic",
    "countdown": "countdown",
    "domains": "domains",
}
TASKS: dict[str, tuple[str, ...]] = {
    "mixed": ("tasks.problems.terms=[2,3,4,5,8,10,12]",),
    "waste": (
        f"tasks.problems={{use: '{HERE}/domains.py:extremes', seed: 2}}",
        "stages.rl.group_size=16",
        "stages.rl.groups_per_step=12",
        "stages.rl.steps=30",
    ),
}
"""Changes of a task's recipe."""
QUICK: dict[str, tuple[str, ...]] = {
    "arithmetic": ("stages.rl.stop_after_tokens=60000",),
    "mixed": ("stages.rl.stop_after_tokens=60000",),
    "countdown": ("stages.rl.stop_after_tokens=50000",),
    "domains": ("stages.rl.stop_after_tokens=50000",),
    "waste": ("stages.rl.steps=8",),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description="SEC against random and ordered curricula, with and without a filter."
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer tokens or steps: a minute a run at most"
    )
    parser.add_argument("--task", choices=list(RECIPES), default="arithmetic")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--cells",
        nargs="*",
        metavar="CELL",
        help="only these rows of the table, such as random+filter+skip",
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/papers/sec"))
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="changes of the recipe for all cells",
    )
    arguments = parser.parse_args()
    folder = arguments.folder / f"{arguments.task}{'-quick' if arguments.quick else ''}"
    started = time.perf_counter()
    recipe = str(HERE / f"{RECIPES[arguments.task]}.yaml")
    common = [
        *TASKS.get(arguments.task, ()),
        *(QUICK[arguments.task] if arguments.quick else ()),
        *arguments.set,
    ]
    cells = dict(WASTE_CELLS if arguments.task == "waste" else CELLS)
    if unknown := set(arguments.cells or ()) - set(cells):
        parser.error(
            f"--task {arguments.task} has no cell {', '.join(sorted(unknown))}; its cells are {', '.join(cells)}"
        )
    if "ordered" in cells:
        cells["ordered"] = (
            *cells["ordered"],
            f"tasks.problems.size={_walk(recipe, common)}",
        )
    cells = {
        cell: changes
        for cell, changes in cells.items()
        if not arguments.cells or cell in arguments.cells
    }
    runs = run_study(recipe, cells, seeds=range(arguments.seeds), folder=folder, common=common)
    seconds = time.perf_counter() - started

    summary = {cell: _numbers(group) for cell, group in by_cell(runs).items()}
    plot = folder / "shares.svg"
    plot.write_text(
        panels_svg(_shares(runs), x="step", y="share of the groups", high=1.0), encoding="utf-8"
    )
    if arguments.json:
        print(
            json.dumps(
                {
                    "task": arguments.task,
                    "seconds": round(seconds),
                    "plot": str(plot),
                    "cells": summary,
                }
            )
        )
        return
    Console(width=140).print(_table(summary))
    print(f"{seconds:.0f} s; shares of the categories (first seed): {plot}")


def _numbers(group: Sequence[CellRun]) -> dict[str, list[float]]:
    """What the runs of a cell gave, by seed."""
    return {
        "inside": [run.accuracy["inside"] for run in group],
        "outside": [run.accuracy["outside"] for run in group],
        "tokens": [float(run.tokens) for run in group],
        "steps": [float(run.steps) for run in group],
        "waste": [run.waste for run in group],
    }


def _table(summary: Mapping[str, Mapping[str, Sequence[float]]]) -> Table:
    table = Table(
        "curriculum",
        "inside",
        "outside",
        "against random",
        "answer tokens",
        "steps",
        "waste",
        "outside by seed",
    )
    reference = statistics.fmean(summary["random"]["outside"]) if "random" in summary else 0.0
    for cell, found in summary.items():
        outside = statistics.fmean(found["outside"])
        table.add_row(
            cell,
            percent(found["inside"]),
            percent(found["outside"]),
            f"{outside / reference - 1:+.0%}" if reference else "",
            f"{statistics.fmean(found['tokens']):,.0f}",
            f"{statistics.fmean(found['steps']):.0f}",
            percent(found["waste"]),
            ", ".join(f"{one:.1%}" for one in found["outside"]),
        )
    return table


def _shares(runs: Sequence[CellRun]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """The share of each category over the steps of each cell's first seed."""
    prefix, suffix = "curriculum/", "/frac"  # a category of several columns has a slash in its name
    return {
        cell: {
            key.removeprefix(prefix).removesuffix(suffix): [
                (row["step"], row.get(key, 0.0)) for row in group[0].rows
            ]
            for key in sorted(
                {
                    key
                    for row in group[0].rows
                    for key in row
                    if key.startswith(prefix) and key.endswith(suffix)
                }
            )
        }
        for cell, group in by_cell(runs).items()
    }


def _walk(recipe: str, changes: Sequence[str]) -> int:
    """Tasks that a walk from the first level to the last goes through in the tokens there are, answers as long as demonstrations."""
    loaded = load(recipe, changes)
    stage = next(stage for stage in loaded.stages if isinstance(stage, RlStage))
    demonstrations = [
        str(task.demonstration) for task in build_tasks(loaded.tasks["problems"])[:1000]
    ]
    return int(
        (stage.stop_after_tokens or 0)
        / stage.group_size
        / (statistics.fmean(map(len, demonstrations)) + 1)
    )


if __name__ == "__main__":
    main()
