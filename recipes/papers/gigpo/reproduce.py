"""Credit for turns on the grid world: the episode's reward on all moves, each move's return, and
GiGPO (arXiv 2505.10978).

    python recipes/papers/gigpo/reproduce.py [--quick] [--seeds 4] [--json | --table]

All cells of a seed begin with the same model, which imitated a teacher that often wanders. The
reward is 1 at the goal and 0 otherwise, so only the discount and equal states tell moves apart."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rlcore.analysis.study import CellRun, run_study, study_arguments
from rlcore.analysis.study_results import Point, StudyResults, markdown, origin
from rlcore.run.plots import panels_svg
from rlcore.terminal import one_sentence_errors

HERE = Path(__file__).resolve().parent
CELLS = {
    "episode": ("stages.rl.credit.turns=null",),
    "returns": ("stages.rl.credit.turns={use: returns, gamma: 0.95, normalise: mean_std}",),
    "gigpo": (),
}
QUICK = (
    "stages.sft.steps=40",
    "stages.rl.steps=2",
    "stages.rl.groups_per_step=4",
    "tasks.eval_set.size=32",
)


def training_success(run: CellRun) -> float:
    """Mean reward over all steps: the area under the learning curve."""
    return statistics.fmean(row["reward/mean"] for row in run.rows)


MEASURES: dict[str, Callable[[CellRun], float]] = {
    "imitation": lambda run: run.accuracy["before"],
    "after RL": lambda run: run.accuracy["after"],
    "mean of all steps": training_success,
    "moves": lambda run: run.evals["after"]["env/turns/mean"],
}


def learning_curve(run: CellRun) -> Mapping[str, Sequence[Point]]:
    return {"reward": [(n, row["reward/mean"]) for n, row in enumerate(run.rows, start=1)]}


def main() -> None:
    arguments = study_arguments(str(__doc__), Path("runs/gigpo")).parse_args()
    if arguments.table:
        results = StudyResults.read(arguments.folder / "results.json")
    else:
        results = run_study(
            str(HERE / "gigpo.yaml"),
            CELLS,
            seeds=arguments.seeds,
            folder=arguments.folder,
            measures=MEASURES,
            curves=learning_curve,
            common=QUICK if arguments.quick else (),
            start_per_seed=True,
        )
        (arguments.folder / "learning.svg").write_text(drawing(results), encoding="utf-8")
    print(json.dumps(results.as_dict()) if arguments.json else table(results))


def table(results: StudyResults) -> str:
    rows = []
    for cell in CELLS:
        measured = [results.summary(cell, name).text(".1%") for name in list(MEASURES)[:3]]
        rows.append([cell, *measured, results.summary(cell, "moves").text(".1f")])
    return f"{markdown(['credit', *MEASURES], rows)}\n\n{origin(results)}"


def drawing(results: StudyResults) -> str:
    """Learning curves: the mean reward of each step, and its mean over seeds."""
    lines = {}
    for cell in CELLS:
        curves = results.curves(cell, "reward")
        lines[cell] = [
            (points[0][0], statistics.fmean(reward for _, reward in points))
            for points in zip(*curves, strict=True)
        ]
    return panels_svg({"reward of a step, mean over seeds": lines}, x="step", y="reward", high=1.0)


if __name__ == "__main__":
    with one_sentence_errors():
        main()
