"""Train Long, Think Short (arXiv 2508.08940) on a tiny model: a falling token budget against the final one from the start.

    python recipes/papers/train_long_think_short/reproduce.py [--quick] [--json] [--folder runs/papers/train_long_think_short]

The demonstrations (forms.py) show sums in three lengths; the shorter the answer, the more often its teacher forgets the carry. The model
that imitates them follows the budget in its prompt, roughly, and is mostly wrong where the budget is small. All cells take the
same number of steps and sit the eval_set with the final budget stated. The paper reports, with a 7B model: 86.2% at 89 tokens for
the curriculum, 82.7% at 87 for the fixed budget.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from rlcore.analysis.study import by_cell, mean_spread, percent, run_study
from rlcore.run.plots import panels_svg

HERE = Path(__file__).resolve().parent
FINAL = 23
CELLS = {
    "fixed budget": (f"stages.rl.budget={{use: fixed, tokens: {FINAL}}}",),
    "drops": (f"stages.rl.budget={{use: drops, start: 46, end: {FINAL}, drops: 2}}",),
    "linear": (f"stages.rl.budget={{use: linear, start: 46, end: {FINAL}, drops: 2}}",),
}
QUICK = ("stages.rl.steps=60",)
QUICK_CELLS = ("fixed budget", "drops")


def main() -> None:
    parser = argparse.ArgumentParser(description="A falling token budget against a fixed one.")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer steps and no linear schedule: about five minutes on one core",
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--eval_set",
        choices=["eval_set", "validation"],
        default="eval_set",
        help="validation: for choosing settings",
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/papers/train_long_think_short"))
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument(
        "changes", nargs="*", help="changes of the recipe for all cells, as of rlcore train"
    )
    arguments = parser.parse_args()
    folder = arguments.folder / ("quick" if arguments.quick else "whole")
    started = time.perf_counter()
    cells = {name: CELLS[name] for name in (QUICK_CELLS if arguments.quick else CELLS)}
    common = (
        *(QUICK if arguments.quick else ()),
        f"tasks.eval_set.params.split={arguments.eval_set}",
        *arguments.changes,
    )
    runs = run_study(
        str(HERE / "sums.yaml"), cells, seeds=range(arguments.seeds), folder=folder, common=common
    )
    seconds = time.perf_counter() - started

    table = Table(
        "budget",
        "right",
        "tokens of an answer",
        "of the final budget",
        "answer tokens in training",
        "right, by seed",
    )
    summary = {}
    for cell, group in by_cell(runs).items():
        right = [run.accuracy["eval_set"] for run in group]
        accuracy, length = (
            mean_spread(right),
            mean_spread([run.length["eval_set"] for run in group]),
        )
        tokens = round(mean_spread([run.tokens for run in group])[0])
        summary[cell] = {"eval_set": accuracy, "length": length, "tokens": tokens, "by_seed": right}
        table.add_row(
            cell,
            percent(right),
            f"{length[0]:.2f} ± {length[1]:.2f}",
            f"{length[0] / FINAL - 1:+.0%}",
            f"{tokens:,}",
            ", ".join(f"{one:.1%}" for one in right),
        )
    lines = {
        cell: {
            "length": [(row["step"], row["completions/length/mean"]) for row in group[0].rows],
            "budget": [(row["step"], row["budget"]) for row in group[0].rows],
            "right, %": [(row["step"], 100 * row["reward/exact"]) for row in group[0].rows],
        }
        for cell, group in by_cell(runs).items()
    }
    plot = folder / "lengths.svg"
    plot.write_text(panels_svg(lines, x="step", y="tokens"), encoding="utf-8")
    if arguments.json:
        print(
            json.dumps(
                {
                    "seconds": round(seconds),
                    "plot": str(plot),
                    "final_budget": FINAL,
                    "cells": summary,
                }
            )
        )
        return
    Console(width=120).print(table)
    print(f"{seconds:.0f} s; lengths and budgets (first seed): {plot}")


if __name__ == "__main__":
    main()
