"""SEC (arXiv 2505.14970) on a tiny model: random, ordered and bandit curricula, with and without a
zero-variance filter.

    python recipes/papers/sec/reproduce.py [--quick] [--task TASK] [--seeds 3] [--json | --table]

TASK is arithmetic, mixed, countdown or waste; reproduce_domains.py compares more curricula on nine
categories. Every cell starts from the same imitation-trained model and generates the same number of
completion tokens. The table shows accuracy on held-out problems of the trained levels (inside) and
of a level that is never trained (outside).
`mixed` is arithmetic with three more training levels that are out of the model's reach. `waste`
compares filters at the same number of steps instead: the fraction of the completion tokens that
reach no gradient, with a filter, with a probe, and with a bandit. The paper's gains over random on
its outside levels are +13% to +33%, relative, with models 1000 times larger."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from rlcore.analysis.study import CellRun, run_study, show_results, study_arguments
from rlcore.analysis.study_results import Point, StudyResults, markdown, origin
from rlcore.recipe.build import build_tasks
from rlcore.recipe.load import load
from rlcore.run.plots import panels_svg
from rlcore.terminal import one_sentence_errors

HERE = Path(__file__).resolve().parent
UNIFORM = "stages.rl.curriculum=uniform"
FILTER = "stages.rl.filter=zero_variance"
PREFILTER = "stages.rl.prefilter={use: greso, by: category}"
PROBE = "stages.rl.resample={probe: 4}"
CELLS = {
    "random": (UNIFORM,),
    "ordered": ("stages.rl.curriculum={use: ordered, by: level}",),
    "sec": (),
    "random+filter": (UNIFORM, FILTER),
    "random+filter+prefilter": (UNIFORM, FILTER, PREFILTER),
    "sec+filter": (FILTER,),
}
WASTE_CELLS = {
    "random": (UNIFORM,),
    "random+filter": (UNIFORM, FILTER),
    "random+filter+probe": (UNIFORM, FILTER, PROBE),
    "random+filter+prefilter": (UNIFORM, FILTER, PREFILTER),
    "random+filter+prefilter+probe": (UNIFORM, FILTER, PREFILTER, PROBE),
    "sec": (),
    "sec+filter": (FILTER,),
    "sec+filter+probe": (FILTER, PROBE),
}
RECIPES = {
    "arithmetic": "arithmetic",
    "mixed": "arithmetic",
    "waste": "arithmetic",
    "countdown": "countdown",
}
EXTREMES = f"{{use: '{HERE}/domains.py:extremes', seed: 2}}"
TASKS: dict[str, tuple[str, ...]] = {
    "mixed": ("tasks.problems.terms=[2,3,4,5,8,10,12]",),
    "waste": (
        f"tasks.problems={EXTREMES}",
        "stages.rl.group_size=16",
        "stages.rl.groups_per_step=12",
        "stages.rl.steps=30",
    ),
}
"""Task -> overrides of its recipe."""
QUICK: dict[str, tuple[str, ...]] = {
    "arithmetic": ("stages.rl.stop_after_tokens=60000",),
    "mixed": ("stages.rl.stop_after_tokens=60000",),
    "countdown": ("stages.rl.stop_after_tokens=50000",),
    "waste": ("stages.rl.steps=8",),
}
MEASURES: dict[str, Callable[[CellRun], float]] = {
    "inside": lambda run: run.accuracy["inside"],
    "outside": lambda run: run.accuracy["outside"],
    "tokens": lambda run: run.tokens,
    "steps": lambda run: run.steps,
    "frac_wasted": lambda run: run.frac_wasted,
}


def main() -> None:
    arguments = _arguments()
    recipe = str(HERE / f"{RECIPES[arguments.task]}.yaml")
    folder = arguments.folder / f"{arguments.task}{'-quick' if arguments.quick else ''}"
    if arguments.table:
        print(table(StudyResults.read(folder / "results.json")))
        return
    common = [*TASKS.get(arguments.task, ()), *arguments.set]
    if arguments.quick:
        common += QUICK[arguments.task]
    cells = dict(WASTE_CELLS if arguments.task == "waste" else CELLS)
    if "ordered" in cells:
        size = f"size={walk_size(recipe, common)}"
        cells["ordered"] = (*cells["ordered"], f"tasks.problems.{size}")
    if arguments.cells:
        cells = {cell: cells[cell] for cell in arguments.cells}
    results = run_study(
        recipe,
        cells,
        seeds=arguments.seeds,
        folder=folder,
        measures=MEASURES,
        curves=categories,
        common=common,
    )
    plot = folder / "categories.svg"
    first_seeds = {}
    for name, cell in results.cells.items():
        first_seeds[name] = cell.runs[min(cell.runs)].curves
    panels = panels_svg(first_seeds, x="step", y="fraction of the groups", high=1.0)
    plot.write_text(panels, encoding="utf-8")
    show_results(results, as_json=arguments.json, table=table)


def _arguments() -> argparse.Namespace:
    parser = study_arguments(str(__doc__), Path("runs/papers/sec"))
    parser.add_argument("--task", choices=list(RECIPES), default="arithmetic")
    parser.add_argument(
        "--cells",
        nargs="*",
        metavar="CELL",
        help="only these rows of the table, such as random+filter+prefilter",
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="overrides of the recipe for all cells",
    )
    arguments = parser.parse_args()
    cells = WASTE_CELLS if arguments.task == "waste" else CELLS
    unknown = sorted(set(arguments.cells or ()) - set(cells))
    if unknown:
        parser.error(
            f"--task {arguments.task} has no cell {', '.join(unknown)}; "
            f"its cells are {', '.join(cells)}"
        )
    return arguments


def table(results: StudyResults) -> str:
    """A row per cell, with the gain over random outside."""
    random_outside = None
    if "random" in results.cells:
        random_outside = results.summary("random", "outside").mean
    rows = []
    for cell in results.cells:
        outside = results.summary(cell, "outside")
        gain = f"{outside.mean / random_outside - 1:+.0%}" if random_outside else ""
        rows.append(
            [
                cell,
                results.summary(cell, "inside").text(".1%"),
                outside.text(".1%"),
                gain,
                ", ".join(f"{value:.1%}" for value in outside.values),
                f"{results.summary(cell, 'steps').mean:.0f}",
                f"{results.summary(cell, 'tokens').mean:,.0f}",
                results.summary(cell, "frac_wasted").text(".1%"),
            ]
        )
    headers = [
        "curriculum",
        "inside",
        "outside",
        "against random",
        "outside by seed",
        "steps",
        "completion tokens",
        "wasted",
    ]
    return f"{markdown(headers, rows)}\n\n{origin(results)}"


def categories(run: CellRun) -> dict[str, list[Point]]:
    """The fraction of the groups in each category, over the steps."""
    prefix = "curriculum/"
    suffix = "/frac"  # a category of several columns has slashes in its name
    keys = set()
    for row in run.rows:
        keys |= {key for key in row if key.startswith(prefix) and key.endswith(suffix)}
    lines = {}
    for key in sorted(keys):
        category = key.removeprefix(prefix).removesuffix(suffix)
        lines[category] = [(row["step"], row.get(key, 0.0)) for row in run.rows]
    return lines


def walk_size(recipe: str, overrides: Sequence[str]) -> int:
    """The number of tasks that a walk from the first level to the last takes within the tokens of
    the run.

    Completions are taken to be as long as demonstrations.
    """
    loaded = load(recipe, overrides)
    stage = next(stage for stage in loaded.stages if stage.kind == "rl")
    tasks = build_tasks(loaded.tasks["problems"])[:1000]
    length = statistics.fmean(len(str(task.demonstration)) + 1 for task in tasks)
    return int((stage.stop_after_tokens or 0) / stage.group_size / length)


if __name__ == "__main__":
    with one_sentence_errors():
        main()
