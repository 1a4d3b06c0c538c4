"""Cyclical curriculum learning: subsets drawn by ease that grow and shrink, against all data in every epoch.

    python recipes/papers/cyclical_curriculum/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

A first model is trained in the ordinary way; its losses are the scores. All cells see as many examples.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from rich.console import Console

from rlcore import train
from rlcore.analysis.demonstration_losses import demonstration_losses
from rlcore.analysis.study import run_study, show_results, study_arguments
from rlcore.analysis.study_results import StudyResults, study_table
from rlcore.recipe.build import build_tasks
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.terminal import one_sentence_errors

RECIPE = str(Path(__file__).with_name("cycle.yaml"))
UNIFORM = "stages.sft.curriculum=uniform"
CELLS = {
    "uniform": (UNIFORM,),
    "cyclic": (),
    "cyclic, hard ones more often": ("stages.sft.curriculum.by=hardness",),
    "random subsets": ("stages.sft.curriculum={use: rs2, share: 0.5}",),
}
SKILLS = ("copy", "largest", "count", "reverse", "sort", "next", "add", "multiply")
MEASURES = {"accuracy": lambda run: run.accuracy["test"]}
for _skill in SKILLS:
    MEASURES[_skill] = lambda run, key=f"accuracy/{_skill}": run.evals["test"][key]
table = partial(study_table, forms=dict.fromkeys(MEASURES, ".1%"))
QUICK = ("stages.sft.steps=8", "tasks.problems.size=8", "tasks.test.size=2")
SCORER_SEED = 1000


def scores(folder: Path, common: tuple[str, ...]) -> Path:
    """The file of each problem's loss under a model that was trained on all of them alike."""
    overrides = [*common, UNIFORM, f"run.folder={folder}", "name=scorer", f"seed={SCORER_SEED}"]
    recipe = load(RECIPE, overrides)
    train(recipe, resume=True, console=Console(quiet=True))
    tasks = build_tasks(recipe.tasks["problems"])
    losses = demonstration_losses(all_checkpoints(folder / "scorer/checkpoints")[-1], tasks)
    by_id = {task.id: loss for task, loss in zip(tasks, losses, strict=True)}
    path = folder / "scores.json"
    path.write_text(json.dumps(by_id), encoding="utf-8")
    return path


def main() -> None:
    arguments = study_arguments(str(__doc__), Path("runs/papers/cyclical_curriculum")).parse_args()
    folder = arguments.folder / ("quick" if arguments.quick else "full")
    if arguments.table:
        print(table(StudyResults.read(folder / "results.json")))
        return
    common = QUICK if arguments.quick else ()
    results = run_study(
        RECIPE,
        CELLS,
        seeds=range(1) if arguments.quick else arguments.seeds,
        folder=folder,
        measures=MEASURES,
        common=(*common, f"tasks.problems.scores={scores(folder, common)}"),
        first="sft",
    )
    show_results(results, as_json=arguments.json, table=table)


if __name__ == "__main__":
    with one_sentence_errors():
        main()
