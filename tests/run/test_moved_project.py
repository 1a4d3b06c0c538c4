"""A run goes on after its project has moved: its own files have other paths then, and the same content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rlcore.errors import RunError
from rlcore.recipe.load import dump, load
from rlcore.run.folder import RUN_RECIPE
from rlcore.run.same_recipe import check_same_recipe

RECIPE = """
name: moved
model: {config: {model_type: qwen2}, tokenizer: bytes}
tasks: {train: {use: "own.py:tasks"}}
stages:
  - {kind: rl, tasks: train, steps: 1, rewards: [{use: "own.py:right"}]}
"""
OWN = "def tasks():\n    return []\n\ndef right(completions, **columns):\n    return [0.0] * len(completions)\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project, and beside it a copy and a run that the project made."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "moved.yaml").write_text(RECIPE)
    (project / "own.py").write_text(OWN)
    shutil.copytree(project, tmp_path / "copy")
    run = tmp_path / "run"
    checkpoint = run / "checkpoints/step_000001/trainer"
    checkpoint.mkdir(parents=True)
    (checkpoint / "cursor.json").write_text('{"stage": 0, "stage_step": 1, "step": 1}')
    (run / RUN_RECIPE).write_text(dump(load(str(project / "moved.yaml"))))
    return project


def resumed(project: Path, folder: str, *overrides: str) -> None:
    check_same_recipe(project.parent / "run", load(str(project.parent / folder / "moved.yaml"), overrides), [])


@pytest.mark.parametrize("is_kept", [True, False])
def test_the_same_files_elsewhere_are_the_same_recipe(project: Path, is_kept: bool) -> None:
    if not is_kept:
        shutil.rmtree(project)
    resumed(project, "copy")


def test_other_content_another_name_or_another_part_is_another_recipe(project: Path) -> None:
    copy = project.parent / "copy"
    for change in ("tasks.train.use='own.py:right'", "stages.rl.rewards=[{use: exact}]"):
        with pytest.raises(RunError, match="made by another recipe"):
            resumed(project, "copy", change)
    shutil.copy(copy / "own.py", copy / "other.py")
    with pytest.raises(RunError, match="other.py:right"):
        resumed(project, "copy", "stages.rl.rewards=[{use: 'other.py:right'}]")
    (copy / "own.py").write_text(OWN + "# changed\n")
    with pytest.raises(RunError, match="made by another recipe"):
        resumed(project, "copy")
