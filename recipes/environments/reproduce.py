"""The ready environments: what RL adds to imitation of a weak teacher, between a random and an optimal policy.

    python recipes/environments/reproduce.py [TASK ...] [--quick] [--seeds 3] [--json | --table]

TASK is number_guessing, calculator, facts or grid_world; all of them without one. Each seed imitates
the teacher from scratch, is evaluated on held-out tasks, learns by RL and is evaluated again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcore.analysis.study import CellRun, run_study, study_arguments
from rlcore.analysis.study_results import StudyResults, markdown, origin
from rlcore.environments import calculator, facts, grid_world, number_guessing
from rlcore.environments.play import Policy, mean_rewards
from rlcore.recipe.build import build_tasks
from rlcore.recipe.load import load
from rlcore.terminal import one_sentence_errors

HERE = Path(__file__).resolve().parent
PLAYED: dict[str, tuple[Callable[[], Any], Mapping[str, Policy]]] = {
    "number_guessing": (number_guessing.NumberGuessing, number_guessing.POLICIES),
    "calculator": (calculator.Calculator, calculator.POLICIES),
    "facts": (facts.Facts, facts.POLICIES),
    "grid_world": (grid_world.GridWorld, grid_world.POLICIES),
}
CELLS = {"RL": ()}
MEASURES: dict[str, Callable[[CellRun], float]] = {
    "imitation": lambda run: run.accuracy["before"],
    "RL": lambda run: run.accuracy["after"],
    "gain": lambda run: run.accuracy["after"] - run.accuracy["before"],
    "turns before": lambda run: run.evals["before"]["env/turns/mean"],
    "turns after": lambda run: run.evals["after"]["env/turns/mean"],
}
QUICK = (
    "stages.sft.steps=40",
    "stages.rl.steps=2",
    "stages.rl.groups_per_step=4",
    "tasks.eval_set.size=32",
)


def main() -> None:
    arguments = _arguments()
    results = {}
    for task in arguments.tasks or PLAYED:
        folder = arguments.folder / f"{task}{'-quick' if arguments.quick else ''}"
        if arguments.table:
            results[task] = StudyResults.read(folder / "results.json")
            continue
        results[task] = study(task, folder, arguments.seeds, quick=arguments.quick)
    if arguments.json:
        print(json.dumps({task: one.as_dict() for task, one in results.items()}))
        return
    print(table(results))


def study(task: str, folder: Path, seeds: Sequence[int], *, quick: bool) -> StudyResults:
    """The study of one environment, with the mean reward of the scripted policies on its eval set."""
    common = QUICK if quick else ()
    recipe = str(HERE / f"{task}.yaml")
    results = run_study(
        recipe,
        CELLS,
        seeds=seeds,
        folder=folder,
        measures=MEASURES,
        common=common,
        start_per_seed=True,
    )
    make, policies = PLAYED[task]
    eval_set = build_tasks(load(recipe, common).tasks["eval_set"])
    results.derived = mean_rewards(make, eval_set, policies)
    results.save()
    return results


def table(results: Mapping[str, StudyResults]) -> str:
    """A row per environment: the bounds, and accuracy before and after RL."""
    rows = []
    for task, one in results.items():
        measured = [one.summary("RL", name).text(".1%") for name in ("imitation", "RL", "gain")]
        turns = [one.summary("RL", f"turns {when}").text(".1f") for when in ("before", "after")]
        bounds = [f"{one.derived[name]:.1%}" for name in ("random", "optimal")]
        rows.append([task, bounds[0], *measured, bounds[1], " -> ".join(turns)])
    headers = ["", "random", "imitation", "after RL", "gain", "optimal", "turns"]
    origins = "\n".join(origin(one) for one in results.values())
    return f"{markdown(headers, rows)}\n\n{origins}"


def _arguments() -> argparse.Namespace:
    parser = study_arguments(str(__doc__), Path("runs/environments"))
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(PLAYED))
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.tasks) - set(PLAYED))
    if unknown:
        parser.error(f"there is no task {', '.join(unknown)}; there are: {', '.join(PLAYED)}")
    return arguments


if __name__ == "__main__":
    with one_sentence_errors():
        main()
