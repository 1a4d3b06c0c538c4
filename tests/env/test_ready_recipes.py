"""Recipes of the ready environments and of the papers on agents: valid, measured where they say, with the stated mix of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlcore.analysis.study import CellRun
from rlcore.plugin import import_file
from rlcore.recipe.build import build_curriculum, build_tasks
from rlcore.recipe.load import load
from rlcore.stages.eval import EvalStage
from rlcore.stages.rl import RlStage

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
READY = import_file(RECIPES / "environments/reproduce.py")
MASKSEARCH = import_file(RECIPES / "papers/masksearch/reproduce.py")
MOBILE = import_file(RECIPES / "papers/mobile_r1/reproduce.py")
STUDIES = [
    *[(READY, RECIPES / f"environments/{task}.yaml") for task in READY.PLAYED],
    (MASKSEARCH, RECIPES / "papers/masksearch/masks.yaml"),
    (MOBILE, RECIPES / "papers/mobile_r1/stages.yaml"),
]


@pytest.mark.parametrize(("module", "path"), STUDIES, ids=lambda value: getattr(value, "stem", ""))
def test_every_cell_is_valid_and_every_number_is_measured(module: Any, path: Path, tmp_path: Path) -> None:
    for overrides in module.CELLS.values():
        recipe = load(str(path), [*module.QUICK, *overrides])
        names = {stage.name for stage in recipe.stages if isinstance(stage, EvalStage)}
        row = {"accuracy": 0.5, "env/turns/mean": 3.0}
        categories = build_tasks(recipe.tasks["eval_set"]).column("category")
        row |= {f"accuracy/{category}": 0.5 for category in set(categories)}
        run = CellRun("", 0, dict.fromkeys(names, row), [], tmp_path)
        assert all(isinstance(measure(run), float) for measure in module.MEASURES.values())


def test_train_and_eval_set_of_the_recipes_share_no_task() -> None:
    for _, path in STUDIES:
        recipe = load(str(path))
        prompts = {}
        for name in ("demonstrations", "problems", "eval_set"):
            tasks = build_tasks(recipe.tasks[name])[:100]
            column = "rows" if recipe.tasks[name].use == "grid_world" else None
            prompts[name] = {str(task.columns[column]) + task.prompt if column else task.prompt for task in tasks}
        assert not prompts["eval_set"] & (prompts["demonstrations"] | prompts["problems"])


def test_the_curriculum_of_masksearch_goes_from_one_mask_to_four() -> None:
    recipe = load(str(RECIPES / "papers/masksearch/masks.yaml"))
    stage = next(stage for stage in recipe.stages if isinstance(stage, RlStage))
    tasks = build_tasks(recipe.tasks[stage.tasks])
    assert len(tasks) == stage.steps * stage.groups_per_step
    sampler = build_curriculum(stage.curriculum, tasks, seed=0)
    steps = [
        [tasks[position].columns["level"] for position in sampler.draw(stage.groups_per_step)]
        for _ in range(stage.steps)
    ]
    drawn = [level for step in steps for level in step]
    assert drawn == sorted(drawn) and set(drawn) == {1, 2, 3, 4}
    assert sum(len(set(step)) == 1 for step in steps) >= stage.steps - 3


def test_mobile_r1_judges_moves_first_and_then_the_way() -> None:
    recipe = load(str(RECIPES / "papers/mobile_r1/stages.yaml"))
    actions, task = (stage for stage in recipe.stages if isinstance(stage, RlStage))
    assert actions.env is None and actions.rewards[0].use == "exact"
    assert task.env.use == "grid_world" and task.rewards[0].use == "environment"
    move = build_tasks(recipe.tasks[actions.tasks])[0]
    thought, _, direction = move.demonstration.partition(">")
    assert thought and direction in move.answer
