"""Checkpoints written by a thread of the first of two processes: the same files, whole at every kill, errors on both."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest

from rlcore.run import checkpoint
from rlcore.run.folder import read_rows
from tests.run.test_sharded import SHARDED
from tests.run.test_snapshots import ASYNC, PEFT, assert_same, files_of
from tests.run.whole import finish, run_folder, start, story, write_recipe

EVERY = "run.checkpoint_every=1"
FULL_DISK = Path(__file__).with_name("full_disk_of_ranks.py")
REFUSED_SHARD = Path(__file__).with_name("refused_shard.py")
EMA = "stages.rl.optim.ema=0.9"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    recipe = write_recipe(tmp_path_factory.mktemp("unbroken"))
    finish(start("train", recipe, processes=2))
    return story(run_folder(recipe))


def killed(recipe: Path, *, after: int, ranks: slice, delay: float) -> bool:
    """Start or resume, and SIGKILL some ranks `delay` seconds after row `after`; whether that was before the end."""
    process = start("train", recipe, ASYNC, EVERY, "run.timeout_s=60", "--resume", processes=2)
    rows = run_folder(recipe) / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while len(read_rows(rows)) < after and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(delay)
    in_time = process.poll() is None
    for rank in process._ranks[ranks]:
        rank.send_signal(9)
    said = "".join(process.communicate(timeout=120))
    assert "Traceback" not in said
    return in_time


def test_kills_of_all_and_of_one_leave_what_nobody_killed(
    tiny: Path, unbroken: dict[str, Any]
) -> None:
    """All ranks, the one that writes, and the one that waits for it."""
    rng = random.Random(1)
    moments = ((2, slice(0, 2)), (5, slice(0, 1)), (9, slice(1, 2)))
    kills = [
        killed(tiny, after=after, ranks=ranks, delay=rng.uniform(0, 0.1))
        for after, ranks in moments
    ]
    assert sum(kills) >= 2
    finish(start("train", tiny, ASYNC, EVERY, "--resume", processes=2))
    left = story(run_folder(tiny))
    for part in left:
        assert left[part] == unbroken[part], f"{part} differ after kills"


@pytest.mark.parametrize("more", [EMA, PEFT], ids=["ema", "lora"])
def test_a_sharded_run_writes_the_files_that_it_writes_without_a_thread(
    tiny: Path, more: str
) -> None:
    every = (more, EVERY, "run.keep_checkpoints=99", "stages.rl.steps=3")
    finish(start("train", tiny, *every, "name=waited", **SHARDED))
    finish(start("train", tiny, *every, ASYNC, **SHARDED))
    runs = run_folder(tiny).parent
    waited, own = (
        checkpoint.all_checkpoints(runs / name / "checkpoints") for name in ("waited", "tiny")
    )
    assert [p.name for p in own] == [p.name for p in waited] and len(own) == 9
    for a, b in zip(waited, own, strict=True):
        left, right = files_of(a), files_of(b)
        assert left.keys() == right.keys()
        for name in left.keys() - {"trainer/state.pt", "trainer/manifest.json"}:
            assert left[name] == right[name], f"{a.name}/{name}"
        assert_same(checkpoint.read(a), checkpoint.read(b))


@pytest.mark.parametrize("more", [(ASYNC,), ()], ids=["thread", "waited"])
@pytest.mark.parametrize("script", [FULL_DISK, REFUSED_SHARD], ids=["first", "second"])
def test_a_refused_write_is_said_by_both_processes(
    tiny: Path, script: Path, more: tuple[str, ...]
) -> None:
    """The one that could write says the same, and does not wait for the other in vain."""
    run = start("train", tiny, *more, "run.timeout_s=60", script=script, processes=2)
    said = []
    for rank in run._ranks:
        out, err = rank.communicate(timeout=200)
        assert rank.returncode == 2, out + err
        said.append(err)
    for err in said:
        assert "is full" in err and "the run is safe up to step_000002" in err
        assert "another process" not in err and "Traceback" not in err
    saved = checkpoint.all_checkpoints(run_folder(tiny) / "checkpoints")
    assert [path.name for path in saved] == ["step_000002"]
