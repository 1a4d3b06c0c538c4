"""A disk that refuses a write, at every single write of a run: one sentence, nothing lost, and on when there is space."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rlcore.cli.main import main
from rlcore.errors import RunError
from rlcore.recipe.load import load
from rlcore.run import checkpoint
from rlcore.run.disk import is_full, remove, writing
from rlcore.run.folder import RunFolder, read_rows
from tests.run.test_checkpoint import names, started, write
from tests.run.whole import run_folder, story, write_recipe

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
READ_ONLY = OSError(errno.EROFS, os.strerror(errno.EROFS))


def refuse_at(
    patch: pytest.MonkeyPatch, module: Any, function: str, number: int, error: OSError = FULL
) -> list[str]:
    """Make the given call (from 1) of a function fail, by default for lack of space; the calls so far."""
    calls: list[str] = []
    original = getattr(module, function)

    def counted(*arguments: Any, **settings: Any) -> Any:
        calls.append(str(arguments[0]))
        if len(calls) == number:
            raise error
        return original(*arguments, **settings)

    patch.setattr(module, function, counted)
    return calls


WRITES = [
    (Path, "write_text"),
    (Path, "write_bytes"),
    (Path, "mkdir"),
    (os, "replace"),
    (os, "fsync"),
    (torch, "save"),
]


@pytest.mark.parametrize("error", [FULL, READ_ONLY], ids=["full", "read-only"])
@pytest.mark.parametrize(("module", "function"), WRITES, ids=[name for _, name in WRITES])
def test_each_refused_write_of_a_checkpoint_costs_nothing(
    tmp_path: Path, module: Any, function: str, error: OSError
) -> None:
    """Also where a step is saved again, so that its first checkpoint is moved aside."""
    number = 0
    while True:
        number += 1
        folder = tmp_path / f"{number}" / "checkpoints"
        folder.mkdir(parents=True)
        write(folder, 7, stage=1, keep=1)
        with pytest.MonkeyPatch.context() as patch:
            calls = refuse_at(patch, module, function, number, error)
            if len(calls) >= number:
                continue
            try:
                write(folder, 7, stage=2, keep=1)
            except RunError as refusal:
                sentence = str(refusal)
            else:
                assert number > 1, "the write was never refused"
                break
        reason = "the disk of .* is full" if error is FULL else "Read-only file system"
        assert re.search(f"step_000007 could not be written: {reason}", sentence)
        assert "the run is safe up to step_000007" in sentence
        assert "--resume" in sentence
        assert names(folder) == ["step_000007"]
        checkpoint.read(folder / "step_000007")
        assert [path.name for path in folder.iterdir()] == ["step_000007"], (
            "a draft keeps space"
        )
        write(folder, 8, keep=1)
        assert names(folder) == ["step_000008"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a file system of its own needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_run_on_a_disk_that_fills_up_goes_on_when_there_is_space(
    tmp_path: Path,
    small_disk: Path,
    whole_story: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Real libraries on a real full disk: safetensors and torch report it each in its own way."""
    recipe = write_recipe(tmp_path)
    override = f"run.folder={small_disk}"
    refused = 0
    for free in (250_000, 60_000):
        usage = shutil.disk_usage(small_disk)
        (small_disk / "filler").write_bytes(b"x" * max(0, usage.free - free))
        status = main(["train", str(recipe), override, "--resume"])
        (small_disk / "filler").unlink()
        if status == 0:
            break
        refused += 1
        error = capsys.readouterr().err
        assert status == 2 and "Traceback" not in error
        assert "could not be written: the disk of" in error
        drafts = [path for path in small_disk.rglob(".draft*")]
        assert not drafts, "what could not be finished gives back its space"
    assert refused, "the disk was never full"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert main(["train", str(recipe), override, "--resume"]) == 0
    left = story(small_disk / "tiny")
    for part in left:
        assert left[part] == whole_story[part], f"{part} differ after the disk was full"


@pytest.mark.parametrize(
    "error", [FULL, OSError(errno.EDQUOT, "quota"), PermissionError(13, "no")]
)
def test_a_refused_row_is_a_sentence(tmp_path: Path, error: OSError) -> None:
    folder = started(tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(error))
        for write_one in (
            lambda: folder.log_metrics({"step": 1}),
            lambda: folder.log_eval({"step": 1}),
            lambda: folder.write_rollouts(1, 0, [{}]),
        ):
            with pytest.raises(
                RunError, match="could not be written: .*; no checkpoint was lost"
            ):
                write_one()


def test_a_run_folder_that_is_removed_meanwhile_is_a_sentence(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    shutil.rmtree(folder.path)
    with pytest.raises(RunError, match="the run folder .* was removed"):
        folder.log_metrics({"step": 1})


def test_a_start_on_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        refuse_at(patch, os, "replace", 1)
        with pytest.raises(
            RunError, match="its recipe could not be written: the disk of .* is full"
        ):
            started(tmp_path / "run")
    started(tmp_path / "run")


def test_other_errors_inside_a_write_keep_their_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="a bug"), writing("x", tmp_path):
        raise RuntimeError("a bug")
    assert is_full(
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 2 vs 1")
    )
    assert not is_full(PermissionError(13, "no"))


@pytest.mark.parametrize("name", ["../victim", "..", "", ".", "/", "a/../../victim"])
def test_nothing_outside_of_its_folder_is_removed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    (tmp_path / "run").mkdir()
    with pytest.raises(RunError, match="nothing was removed"):
        remove(tmp_path / "run" / name, inside=tmp_path / "run")
    with pytest.raises(RunError):
        RunFolder(tmp_path / "run").new_sample(name)
    assert (victim / "precious").exists() and (tmp_path / "run").exists()


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    victim, run = tmp_path / "victim", tmp_path / "run"
    victim.mkdir()
    (victim / "precious").write_text("x")
    (run / "samples").mkdir(parents=True)
    (run / "samples" / "drawn").symlink_to(victim)
    with pytest.raises(RunError, match="is a link"):
        RunFolder(run).new_sample("drawn")
    assert (victim / "precious").exists()


def test_a_moved_run_goes_on_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under another name, from another working directory, and without the hidden mark."""
    recipe = write_recipe(tmp_path)
    short = ["stages.sft.steps=2", "stages.rl.steps=2"]
    assert main(["train", str(recipe), *short, "stages.rl.steps=1"]) == 0
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(run_folder(recipe), moved, ignore=shutil.ignore_patterns(".rlcore"))
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert main(["train", str(moved), *short, "--resume"]) == 0
    assert not (tmp_path / "runs").exists() and not list((tmp_path / "cwd").iterdir())
    assert load(str(moved)).name == "tiny"
    last = checkpoint.all_checkpoints(moved / "checkpoints")[-1]
    assert checkpoint.read_cursor(last).step == 4
    # A kill before the oldest one was removed leaves one too many, also of a run that is done.
    shutil.copytree(last, moved / "checkpoints" / "step_000001")
    assert main(["train", str(moved), *short, "--resume"]) == 0
    assert len(names(moved / "checkpoints")) == 2


def test_a_run_goes_on_from_another_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reward is a file that is named from the working directory of the first start."""
    first, other = tmp_path / "first", tmp_path / "other"
    first.mkdir()
    other.mkdir()
    recipe = write_recipe(first)
    (first / "own.py").write_text(
        "from rlcore import reward\n\n\n@reward\ndef own(completion, answer):\n    return 1.0\n"
    )
    settings = [
        "stages.sft.steps=1",
        'stages.rl.rewards=[{use: "own.py:own"}]',
        "run.checkpoint_every=1",
    ]
    monkeypatch.chdir(first)
    assert main(["train", "tiny.yaml", *settings, "stages.rl.steps=1", "run.folder=runs"]) == 0
    monkeypatch.chdir(other)
    assert main(["train", str(run_folder(recipe)), "stages.rl.steps=2", "--resume"]) == 0
    monkeypatch.chdir(first)
    again = [*settings, "stages.rl.steps=3", "run.folder=runs", "--resume"]
    assert main(["train", "tiny.yaml", *again]) == 0
    assert len(read_rows(run_folder(recipe) / "metrics.jsonl")) == 4
    (first / "own.py").rename(first / "gone.py")
    monkeypatch.chdir(other)
    assert main(["train", str(run_folder(recipe)), "stages.rl.steps=4", "--resume"]) == 2


def test_a_copy_without_its_mark_is_not_overwritten(tmp_path: Path) -> None:
    folder = started(tmp_path / "run")
    write(folder.checkpoints, 3)
    copy = tmp_path / "copy"
    shutil.copytree(folder.path, copy, ignore=shutil.ignore_patterns(".rlcore"))
    with pytest.raises(RunError, match="no run of rlcore"):
        started(copy, overwrite=True)
    started(copy, resume=True)
    assert (copy / ".rlcore").exists()
