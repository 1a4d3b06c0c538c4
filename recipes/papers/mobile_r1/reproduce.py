"""Mobile-R1 small: format, then single actions, then the whole task, against either kind of reward alone for as many steps.

    python recipes/papers/mobile_r1/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

All three continue from the same imitation. README.md has the numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main

_RL = (
    "kind: rl, steps: 12, groups_per_step: 16, group_size: 16, "
    "optim: {lr: 5e-4, betas: [0.9, 0.99], warmup_steps: 3}"
)
TASK_FIRST = (
    f"stages.actions={{{_RL}, name: actions, tasks: problems, rewards: [{{use: environment}}], "
    "env: {use: grid_world, max_turns: 16, workers: 2}}"
)
ACTIONS_LAST = (
    f'stages.task={{{_RL}, name: task, tasks: actions, rewards: [{{use: exact, after: ">"}}]}}'
)
CELLS = {
    "actions, then task": (),
    "task alone": (TASK_FIRST,),
    "actions alone": (ACTIONS_LAST,),
}
QUICK = (
    "stages.sft.steps=40",
    "stages.actions.steps=2",
    "stages.task.steps=2",
    "tasks.eval_set.size=32",
)
EVALS = {
    "imitation": "format",
    "half of the steps": "actions_learned",
    "all steps": "task_learned",
}


def solved(stage: str) -> Callable[[CellRun], float]:
    """The fraction of held-out maps on which the goal is reached."""
    return lambda run: run.accuracy[stage]


def turns(stage: str) -> Callable[[CellRun], float]:
    return lambda run: run.evals[stage]["env/turns/mean"]


MEASURES: dict[str, Callable[[CellRun], float]] = {}
for label, stage in EVALS.items():
    MEASURES[f"solved: {label}"] = solved(stage)
    MEASURES[f"moves: {label}"] = turns(stage)

if __name__ == "__main__":
    recipe = Path(__file__).with_name("stages.yaml")
    study_main(str(__doc__), recipe, CELLS, MEASURES, quick=QUICK)
