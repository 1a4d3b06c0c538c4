"""Checkpoints and run folders: complete or absent, verified, and exact about what came after."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rlcore.errors import RunError
from rlcore.recipe.load import load
from rlcore.run import checkpoint
from rlcore.run.folder import RunFolder, read_rows

PARTS = ["model.bin", "trainer/state.pt", "trainer/cursor.json", "trainer/manifest.json"]


class Killed(BaseException):
    """Stands for a SIGKILL: nothing after it runs."""


def write(folder: Path, step: int, *, stage: int = 1, keep: int = 2) -> Path:
    def model(path: Path) -> None:
        (path / "model.bin").write_bytes(bytes(range(256)) * step)

    cursor = checkpoint.Cursor(stage=stage, stage_step=step, step=step, curriculum={"epoch": 2})
    state = {"x": torch.arange(step)}
    checkpoint.begin(folder, cursor)
    checkpoint.finish(folder, cursor, save_model=model, state=state, keep=keep)
    return folder / f"step_{step:06d}"


def names(folder: Path) -> list[str]:
    return [path.name for path in checkpoint.all_checkpoints(folder)]


def kill_at(monkeypatch: pytest.MonkeyPatch, module: Any, function: str, number: int) -> None:
    """Raise `Killed` in place of the given call (from 1) of a function and of all calls after."""
    calls = []
    original = getattr(module, function)

    def counted(*arguments: Any, **settings: Any) -> None:
        calls.append(arguments)
        if len(calls) >= number:
            raise Killed
        original(*arguments, **settings)

    monkeypatch.setattr(module, function, counted)


def started(path: Path, **settings: bool) -> RunFolder:
    folder = RunFolder(path)
    folder.start(load("quickstart"), **({"resume": False, "overwrite": False} | settings))
    return folder


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    cursor, state = checkpoint.read(write(tmp_path, 3))
    assert cursor == checkpoint.Cursor(stage=1, stage_step=3, step=3, curriculum={"epoch": 2})
    assert torch.equal(state["x"], torch.arange(3))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        write(tmp_path, step)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000002", "step_000010"]


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_any_damage_is_named_with_advice(tmp_path: Path, name: str, damage: str) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2)
    content = (path / name).read_bytes()
    if damage == "remove":
        (path / name).unlink()
    elif damage == "cut":
        (path / name).write_bytes(content[:-1])
    else:
        flipped = bytes([content[5] ^ 1])
        (path / name).write_bytes(content[:5] + flipped + content[6:])
    message = "step_000002 is damaged: .*delete that folder to resume from step_000001"
    with pytest.raises(RunError, match=message):
        checkpoint.read(path)


@pytest.mark.parametrize("manifest", ["[]", "{}", "3"])
def test_a_manifest_that_verifies_nothing_is_damage(tmp_path: Path, manifest: str) -> None:
    path = write(tmp_path, 1)
    (path / "trainer/manifest.json").write_text(manifest)
    with pytest.raises(RunError, match="is damaged: trainer/manifest.json"):
        checkpoint.read(path)


def test_a_draft_left_by_a_kill_is_not_a_checkpoint_and_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".draft_step_000009" / "trainer").mkdir(parents=True)
    assert names(tmp_path) == []
    write(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000001"]


@pytest.mark.parametrize(
    ("function", "number"),
    [("replace", 1), ("replace", 2), ("replace", 3), ("rmtree", 1), ("rmtree", 2)],
)
def test_a_kill_while_a_step_is_saved_again_costs_no_checkpoint(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    number: int,
) -> None:
    """The last step of a stage may be saved twice: when it is due, and when the stage ends."""
    write(tmp_path, 7, stage=1, keep=1)
    module = os if function == "replace" else shutil
    with monkeypatch.context() as patch:
        kill_at(patch, module, function, number)
        with pytest.raises(Killed):
            write(tmp_path, 7, stage=2, keep=1)
    checkpoint.recover(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000007"]
    cursor, _ = checkpoint.read(tmp_path / "step_000007")
    # The successor is in place after the second rename: of the old away, and of the new to it.
    in_place = function == "rmtree" or number > 2
    assert cursor.stage == (2 if in_place else 1)


@pytest.mark.parametrize(("function", "number"), [("replace", 2), ("rmtree", 1), ("rmtree", 2)])
def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_half(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    number: int,
) -> None:
    write(tmp_path, 1, keep=1)
    module = os if function == "replace" else shutil
    with monkeypatch.context() as patch:
        kill_at(patch, module, function, number)
        with pytest.raises(Killed):
            write(tmp_path, 2, keep=1)
    for name in names(tmp_path):
        checkpoint.read(tmp_path / name)
    checkpoint.recover(tmp_path)
    assert names(tmp_path)[-1] == "step_000002"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_half_deleted_checkpoint_does_not_come_back(tmp_path: Path) -> None:
    write(tmp_path, 1)
    half = tmp_path / ".removed_step_000001"
    os.replace(tmp_path / "step_000001", half)
    (half / "model.bin").unlink()
    checkpoint.recover(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stray", ["step_000010.bak", "step_x", "step_", "step_1 (copy)"])
def test_other_names_are_no_checkpoints(tmp_path: Path, stray: str) -> None:
    write(tmp_path, 9)
    (tmp_path / stray).mkdir()
    assert names(tmp_path) == ["step_000009"]
    write(tmp_path, 10)
    write(tmp_path, 11)
    assert names(tmp_path) == ["step_000010", "step_000011"]
    assert (tmp_path / stray).is_dir()


def test_a_reference_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stage_01"
    checkpoint.save_reference(path, save_model=lambda draft: (draft / "a").write_text("old"))
    with monkeypatch.context() as patch:
        kill_at(patch, os, "replace", 2)
        with pytest.raises(Killed):
            checkpoint.save_reference(
                path, save_model=lambda draft: (draft / "a").write_text("new")
            )
    checkpoint.recover(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["stage_01"]
    assert (path / "a").read_text() == "old"


def test_a_start_clears_what_a_kill_left(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    write(folder.checkpoints, 5)
    os.replace(folder.checkpoints / "step_000005", folder.checkpoints / ".replaced_step_000005")
    (folder.checkpoints / ".draft_step_000005").mkdir()
    (folder.path / ".model").mkdir()
    (folder.path / ".model" / "config.json").write_text("{}")
    folder.start(load("quickstart"), resume=True, overwrite=False)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step_000005"]
    assert not (folder.path / ".model").exists()


def test_rows_after_the_checkpoint_are_forgotten(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    for step in range(1, 6):
        folder.log_metrics({"step": step})
        folder.write_rollouts(step, 0, [{"id": str(step)}])
    folder.log_eval({"stage_index": 1})
    folder.log_eval({"stage_index": 3})
    (folder.rollouts / "notes.jsonl").write_text("{}\n")
    folder.metrics.write_text(folder.metrics.read_text() + '{"step": 6, "lo')
    folder.forget_after(step=3, stage=2)
    assert [row["step"] for row in read_rows(folder.metrics)] == [1, 2, 3]
    assert [row["stage_index"] for row in read_rows(folder.evals)] == [1]
    assert sorted(path.name for path in folder.rollouts.iterdir()) == [
        "000001.jsonl",
        "000002.jsonl",
        "000003.jsonl",
        "notes.jsonl",
    ]
    assert all(json.loads(line) for line in folder.metrics.read_text().splitlines())


@pytest.mark.parametrize("tail", [b'{"stage": "caf\xc3', b"\0\0\0\0", b'{"step'])
def test_a_last_line_that_was_cut_is_left_out(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"step": 1, "text": "é\u2028"}\n\n{"step": 2}\n'.encode() + tail)
    assert [row["step"] for row in read_rows(path)] == [1, 2]


@pytest.mark.parametrize("line", ['{"step', "3", "null"])
def test_a_damaged_line_before_others_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 2}}\n')
    with pytest.raises(RunError, match=r"line 2 of .*rows.jsonl is damaged"):
        read_rows(path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    first = started(tmp_path / "run")
    with pytest.raises(RunError, match="another process is running"):
        started(tmp_path / "run", overwrite=True)
    assert first.recipe.exists()


def test_only_what_a_run_wrote_is_removed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "recipe.yaml").write_text("precious")
    with pytest.raises(RunError, match="no run of rlcore"):
        started(mine, overwrite=True)
    folder = started(tmp_path / "run")
    (folder.path / "notes.txt").write_text("precious")
    folder.start(load("quickstart"), resume=False, overwrite=True)
    assert (folder.path / "notes.txt").exists()
    assert (mine / "recipe.yaml").exists()


def test_a_run_may_be_extended(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    longer = load("quickstart", ["stages.rl.steps=99", "run.checkpoint_every=7"])
    folder.start(longer, resume=True, overwrite=False)


def test_a_folder_with_a_run_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    recipe = load("quickstart")
    folder.log_metrics({"step": 1})
    with pytest.raises(RunError, match="already holds a run"):
        folder.start(recipe, resume=False, overwrite=False)
    folder.start(recipe, resume=True, overwrite=False)
    with pytest.raises(RunError, match=r"another recipe, first difference: seed \(0 -> 1\)"):
        folder.start(recipe.model_copy(update={"seed": 1}), resume=True, overwrite=False)
    folder.start(recipe, resume=False, overwrite=True)


@pytest.mark.parametrize("result", ["metrics", "rollouts", "samples"])
def test_a_start_that_failed_leaves_its_name_free(tmp_path: Path, result: str) -> None:
    """Nothing was computed yet, so another recipe may take the folder; the first result ends that."""
    folder = started(tmp_path / "run")
    other = load("quickstart", ["seed=1"])
    folder.start(other, resume=False, overwrite=False)
    assert "seed: 1" in folder.recipe.read_text()
    if result == "metrics":
        folder.log_metrics({"step": 1})
    else:
        path = getattr(folder, result) / "000001.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}\n")
    with pytest.raises(RunError, match="already holds a run"):
        folder.start(load("quickstart"), resume=False, overwrite=False)


def test_a_kill_while_the_recipe_is_written_keeps_the_one_before(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = started(tmp_path / "run")
    before = folder.recipe.read_text()
    longer = load("quickstart", ["stages.rl.steps=99"])
    with monkeypatch.context() as patch:
        kill_at(patch, os, "replace", 1)
        with pytest.raises(Killed):
            folder.start(longer, resume=True, overwrite=False)
    assert folder.recipe.read_text() == before
    folder.start(longer, resume=True, overwrite=False)
    assert folder.recipe.read_text() != before


def test_an_empty_recipe_is_no_recipe(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    folder.recipe.write_text("")
    folder.start(load("quickstart"), resume=False, overwrite=False)
    write(folder.checkpoints, 3)
    folder.recipe.write_text("")
    with pytest.raises(RunError, match="already holds a run"):
        folder.start(load("quickstart"), resume=False, overwrite=False)
    folder.start(load("quickstart"), resume=True, overwrite=False)
    assert folder.recipe.read_text()
    assert names(folder.checkpoints) == ["step_000003"]
