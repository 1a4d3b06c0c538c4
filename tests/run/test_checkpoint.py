"""Checkpoints and run folders: whole or absent, verified, and exact about what came after them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlcore.errors import RunError
from rlcore.recipe.load import load
from rlcore.run import checkpoint
from rlcore.run.folder import RunFolder, read_rows


def write(folder: Path, step: int) -> Path:
    def model(path: Path) -> None:
        (path / "model.bin").write_bytes(bytes(range(256)) * step)

    cursor = checkpoint.Cursor(stage=1, stage_step=step, step=step, curriculum={"epoch": 2})
    checkpoint.save(folder, cursor, save_model=model, state={"x": torch.arange(step)}, keep=2)
    return folder / f"step_{step:06d}"


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    cursor, state = checkpoint.read(write(tmp_path, 3))
    assert cursor == checkpoint.Cursor(stage=1, stage_step=3, step=3, curriculum={"epoch": 2})
    assert torch.equal(state["x"], torch.arange(3))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        write(tmp_path, step)
    assert [path.name for path in checkpoint.all_checkpoints(tmp_path)] == [
        "step_000002",
        "step_000010",
    ]


@pytest.mark.parametrize(
    "name", ["model.bin", "trainer/state.pt", "trainer/cursor.json", "trainer/manifest.json"]
)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_any_damage_is_named_with_a_way_out(tmp_path: Path, name: str, damage: str) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2)
    content = (path / name).read_bytes()
    if damage == "remove":
        (path / name).unlink()
    else:
        (path / name).write_bytes(
            content[:-1] if damage == "cut" else content[:5] + bytes([content[5] ^ 1]) + content[6:]
        )
    with pytest.raises(
        RunError, match="step_000002 is damaged: .*delete that folder to resume from step_000001"
    ):
        checkpoint.read(path)


def test_a_draft_left_by_a_kill_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".draft_step_000009" / "trainer").mkdir(parents=True)
    write(tmp_path, 1)
    assert [path.name for path in checkpoint.all_checkpoints(tmp_path)] == ["step_000001"]


def test_rows_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.start(load("quickstart"), resume=False, overwrite=False)
    for step in range(1, 6):
        folder.log_metrics({"step": step})
        folder.write_rollouts(step, 0, [{"id": str(step)}])
    folder.log_eval({"stage_index": 1})
    folder.log_eval({"stage_index": 3})
    folder.metrics.write_text(folder.metrics.read_text() + '{"step": 6, "lo')
    folder.forget_after(step=3, stage=2)
    assert [row["step"] for row in read_rows(folder.metrics)] == [1, 2, 3]
    assert [row["stage_index"] for row in read_rows(folder.evals)] == [1]
    assert sorted(path.name for path in folder.rollouts.iterdir()) == [
        "000001.jsonl",
        "000002.jsonl",
        "000003.jsonl",
    ]
    assert all(json.loads(line) for line in folder.metrics.read_text().splitlines())


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.start(load("quickstart"), resume=False, overwrite=False)
    with pytest.raises(RunError, match="another process is running"):
        second.start(load("quickstart"), resume=False, overwrite=True)
    assert first.recipe.exists()


def test_only_what_a_run_wrote_is_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("precious")
    with pytest.raises(RunError, match="no run of rlcore"):
        RunFolder(tmp_path / "mine").start(load("quickstart"), resume=False, overwrite=True)
    folder = RunFolder(tmp_path / "run")
    folder.start(load("quickstart"), resume=False, overwrite=False)
    (folder.path / "notes.txt").write_text("precious")
    folder.start(load("quickstart"), resume=False, overwrite=True)
    assert (folder.path / "notes.txt").exists() and (tmp_path / "mine" / "recipe.yaml").exists()


def test_a_run_may_be_extended(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.start(load("quickstart"), resume=False, overwrite=False)
    folder.start(
        load("quickstart", ["stages.rl.steps=99", "run.checkpoint_every=7"]),
        resume=True,
        overwrite=False,
    )


def test_a_folder_with_a_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    recipe = load("quickstart")
    folder.start(recipe, resume=False, overwrite=False)
    with pytest.raises(RunError, match="already holds a run"):
        folder.start(recipe, resume=False, overwrite=False)
    folder.start(recipe, resume=True, overwrite=False)
    with pytest.raises(RunError, match=r"another recipe, first difference: seed \(0 -> 1\)"):
        folder.start(recipe.model_copy(update={"seed": 1}), resume=True, overwrite=False)
    folder.start(recipe, resume=False, overwrite=True)
