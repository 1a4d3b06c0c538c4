"""Train Long, Think Short (arXiv 2508.08940) on a tiny model: a falling token budget against the
final one from the start.

    python recipes/papers/train_long_think_short/reproduce.py [--quick] [--json | --table]

The demonstrations (forms.py) show sums in three lengths; the shorter the solution, the more often
its teacher forgets the carry. The model that imitates them roughly follows the budget in its
prompt, and is mostly wrong where the budget is small. All cells take the same number of steps and
are evaluated with the final budget stated. The paper reports, with a 7B model: 86.2% at 89 tokens
for the curriculum, 82.7% at 87 for the fixed budget."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, run_study, show_results, study_arguments
from rlcore.analysis.study_results import Point, StudyResults, markdown, origin
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
MEASURES: dict[str, Callable[[CellRun], float]] = {
    "right": lambda run: run.accuracy["eval_set"],
    "length": lambda run: run.length["eval_set"],
    "tokens": lambda run: run.tokens,
}


def main() -> None:
    arguments = _arguments()
    folder = arguments.folder / ("quick" if arguments.quick else "full")
    if arguments.table:
        print(table(StudyResults.read(folder / "results.json")))
        return
    common = [f"tasks.eval_set.split={arguments.eval_set}", *arguments.changes]
    if arguments.quick:
        common += QUICK
    results = run_study(
        str(HERE / "sums.yaml"),
        {name: CELLS[name] for name in (QUICK_CELLS if arguments.quick else CELLS)},
        seeds=range(arguments.seeds),
        folder=folder,
        measures=MEASURES,
        curves=lengths,
        common=common,
    )
    first_seeds = {}
    for name, cell in results.cells.items():
        first_seeds[name] = cell.runs[min(cell.runs)].curves
    panels = panels_svg(first_seeds, x="step", y="tokens")
    (folder / "lengths.svg").write_text(panels, encoding="utf-8")
    show_results(results, as_json=arguments.json, table=table)


def _arguments() -> argparse.Namespace:
    parser = study_arguments(str(__doc__), Path("runs/papers/train_long_think_short"))
    parser.add_argument(
        "--eval_set",
        choices=["eval_set", "validation"],
        default="eval_set",
        help="validation: for choosing settings",
    )
    parser.add_argument(
        "changes", nargs="*", help="overrides of the recipe for all cells, as of rlcore train"
    )
    return parser.parse_args()


def lengths(run: CellRun) -> dict[str, list[Point]]:
    """Length, budget and accuracy over the steps of training."""
    return {
        "length": [(row["step"], row["completions/length/mean"]) for row in run.rows],
        "budget": [(row["step"], row["budget"]) for row in run.rows],
        "right, %": [(row["step"], 100 * row["reward/exact"]) for row in run.rows],
    }


def table(results: StudyResults) -> str:
    """A row per budget."""
    rows = []
    for cell in results.cells:
        right = results.summary(cell, "right")
        length = results.summary(cell, "length")
        rows.append(
            [
                cell,
                right.text(".1%"),
                ", ".join(f"{value:.1%}" for value in right.values),
                length.text(".2f"),
                f"{length.mean / FINAL - 1:+.0%}",
                f"{results.summary(cell, 'tokens').mean:,.0f}",
            ]
        )
    headers = [
        "budget",
        "right",
        "right by seed",
        "tokens of a completion",
        "against the final budget",
        "completion tokens in training",
    ]
    return f"{markdown(headers, rows)}\n\n{origin(results)}"


if __name__ == "__main__":
    main()
