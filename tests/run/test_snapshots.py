"""Checkpoints written by a thread: the same files, one at a time, whole at every kill, and no lost errors."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rlcore.errors import RunError
from rlcore.learner.shard_files import StoredTensor
from rlcore.recipe.load import load
from rlcore.run import checkpoint
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.run.saver import Saver
from rlcore.run.snapshot import HostMemory, Writer
from tests.run.whole import finish, run_folder, start, story, write_recipe

ASYNC = "run.checkpoint_async=true"


def files_of(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_a_copy_does_not_follow_and_keeps_ties() -> None:
    tensor = torch.arange(6.0).reshape(2, 3)
    state = {"a": tensor, "b": tensor, "view": tensor[1], "deep": [{"n": (1, tensor)}], "s": "x"}
    copy = HostMemory().copied(state)
    tensor.zero_()
    state["deep"][0]["n"] = None
    assert torch.equal(copy["a"], torch.arange(6.0).reshape(2, 3))
    assert copy["a"].data_ptr() == copy["b"].data_ptr() == copy["deep"][0]["n"][1].data_ptr()
    assert torch.equal(copy["view"], torch.tensor([3.0, 4.0, 5.0])) and copy["s"] == "x"


def test_memory_is_used_again_only_for_what_fits_and_after_the_call() -> None:
    memory = HostMemory()
    states = [
        {"w": torch.full((2, 3), float(i)), "m": torch.full((2, 3), 10.0 + i), "n": torch.tensor(i)}
        for i in range(3)
    ]
    first, second = memory.copied(states[0]), memory.copied(states[1])
    assert torch.equal(first["w"], states[0]["w"]) and torch.equal(first["m"], states[0]["m"])
    addresses = {t.data_ptr() for copy in (first, second) for t in copy.values()}
    assert len(addresses) == 6
    memory.recycle()
    third = memory.copied(states[2])
    assert {t.data_ptr() for t in third.values()} <= addresses
    for name, tensor in states[2].items():
        assert torch.equal(third[name], tensor), name
    memory.recycle()
    odd = {
        "half": torch.full((2, 3), 0.5, dtype=torch.float16),
        "turned": torch.arange(6.0).reshape(3, 2).T,
        "long": torch.arange(6.0).reshape(6),
    }
    copy = memory.copied(odd)
    for name, tensor in odd.items():
        same = copy[name].dtype == tensor.dtype and copy[name].stride() == tensor.stride()
        assert same and torch.equal(copy[name], tensor), name


def test_one_write_at_a_time_and_the_end_waits() -> None:
    running, most, done = [0], [0], []
    lock = threading.Lock()

    def write(number: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.05)
        with lock:
            running[0] -= 1
        done.append(number)

    writer = Writer()
    for number in range(3):
        writer.start(lambda number=number: write(number))
    writer.join()
    assert done == [0, 1, 2] and most[0] == 1


def test_what_a_write_failed_with_is_raised() -> None:
    def fail() -> None:
        raise RunError("no space")

    writer = Writer()
    writer.start(fail)
    writer.join()
    for _ in range(2):
        with pytest.raises(RunError, match="no space"):
            writer.check()
    with pytest.raises(RunError, match="no space"):
        writer.start(lambda: None)


PEFT = "model.peft={type: lora, r: 2, target_modules: [q_proj]}"


@pytest.mark.parametrize(
    "overrides", [("stages.sft.optim.ema=0.9", "stages.rl.optim.ema=0.9"), (PEFT,)], ids=["ema", "lora"]
)
def test_the_files_are_those_of_a_checkpoint_that_is_waited_for(
    tmp_path: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every file of every checkpoint, though the writer begins only when the next checkpoint is due."""
    every = [*overrides, "run.keep_checkpoints=99", "run.checkpoint_every=1"]
    recipe = load(str(write_recipe(tmp_path)), every)
    train(recipe, folder=tmp_path / "waited")
    finish, enter = checkpoint.finish, Saver.save
    entered: list[int] = []
    threads = set()

    def noted(self: Saver, cursor: checkpoint.Cursor, *arguments: Any, **settings: Any) -> None:
        entered.append(cursor.step)
        enter(self, cursor, *arguments, **settings)

    def late(folder: Path, cursor: checkpoint.Cursor, **settings: Any) -> None:
        threads.add(threading.current_thread().name)
        if threading.current_thread().name == "checkpoint writer":
            step, deadline = cursor.step, time.monotonic() + 20
            while entered[-1] <= step and time.monotonic() < deadline:
                time.sleep(0.002)
            time.sleep(0.1)
        finish(folder, cursor, **settings)

    monkeypatch.setattr(checkpoint, "finish", late)
    monkeypatch.setattr(Saver, "save", noted)
    train(load(str(write_recipe(tmp_path)), [*every, ASYNC]), folder=tmp_path / "async")
    assert "checkpoint writer" in threads
    waited, own = (
        checkpoint.all_checkpoints(tmp_path / name / "checkpoints") for name in ("waited", "async")
    )
    assert [p.name for p in own] == [p.name for p in waited] and len(own) == 12
    for a, b in zip(waited, own, strict=True):
        left, right = files_of(a), files_of(b)
        assert left.keys() == right.keys()
        for name in left.keys() - {"trainer/state.pt", "trainer/manifest.json"}:
            assert left[name] == right[name], f"{a.name}/{name}"
        (cursor, state), (other_cursor, other) = checkpoint.read(a), checkpoint.read(b)
        assert cursor == other_cursor
        assert_same(state, other)
        if "average" in state["learner"]:
            mean = state["learner"]["average"]["mean"]
            for name, tensor in load_file(a / "ema/model.safetensors").items():
                assert torch.equal(tensor, mean[f"model.{name}"]), f"{a.name}/ema: {name}"


def assert_same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, StoredTensor):
        assert_same(a.full(), b.full())
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


def test_a_refused_write_ends_the_run_and_the_last_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, failing = os.fsync, []

    def refuse(handle: int) -> None:
        in_thread = threading.current_thread().name == "checkpoint writer"
        if in_thread and "step_000004" in os.readlink(f"/proc/self/fd/{handle}"):
            failing.append(handle)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuse)
    recipe = load(str(write_recipe(tmp_path)), [ASYNC])
    with pytest.raises(RunError, match="is full.*the run is safe up to step_000002"):
        train(recipe)
    assert failing
    saved = checkpoint.all_checkpoints(run_folder(tmp_path / "tiny.yaml") / "checkpoints")
    assert [path.name for path in saved] == ["step_000002"]


def kill_during(recipe: Path, is_time: Callable[[], bool]) -> bool:
    """Start or resume, and SIGKILL at a moment; whether it was before the end."""
    process = start("train", recipe, ASYNC, "run.checkpoint_every=1", "--resume")
    while not is_time() and process.poll() is None:
        time.sleep(0.001)
    killed = process.poll() is None
    if killed:
        process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return killed


def test_kills_at_random_moments_leave_what_nobody_killed(
    tiny: Path, whole_story: dict
) -> None:
    """Every kill but the first comes after some steps, so that writers are met at work."""
    rng, folder, kills = random.Random(0), run_folder(tiny), 0
    for after in (1, 4, 7, 10):
        delay = rng.uniform(0, 0.05)
        reached: list[float] = []

        def is_time(after: int = after, delay: float = delay, reached: list = reached) -> bool:
            if not reached and len(read_rows(folder / "metrics.jsonl")) >= after:
                reached.append(time.monotonic() + delay)
            return bool(reached) and time.monotonic() >= reached[0]

        kills += kill_during(tiny, is_time)
    assert kills >= 3
    finish(start("train", tiny, ASYNC, "run.checkpoint_every=1", "--resume"))
    left = story(folder)
    for part in left:
        assert left[part] == whole_story[part], f"{part} differ after kills"
