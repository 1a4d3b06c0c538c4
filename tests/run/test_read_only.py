"""A run folder that can no longer be written to in the middle of a run: one sentence, and on when it can be again.

A file system that has met an error turns read-only by itself; here the bits of the folders do it, for a process without
the right of the superuser to ignore them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rlcore.cli.main import main
from rlcore.errors import RunError
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.terminal import SafeConsole
from tests.run.whole import run_folder, story

pytestmark = pytest.mark.slow

VERSION_3 = 0x20080522
DAC_OVERRIDE = 1 << 1
"""The right to write wherever one wants, as of linux/capability.h."""


@contextmanager
def without_override() -> Iterator[None]:
    """Inside, this thread obeys the bits of files, whoever it belongs to."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    rights = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, rights) == 0
    effective = rights[0]
    rights[0] = effective & ~DAC_OVERRIDE
    assert libc.capset(header, rights) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        rights[0] = effective
        assert libc.capset(header, rights) == 0


def set_writable(folder: Path, writable: bool) -> None:
    """Whether anything in a folder, at any depth, can be written, made, renamed or removed."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755 if writable else 0o555)
        else:
            path.chmod(0o644 if writable else 0o444)


@pytest.mark.parametrize(
    ("part", "step", "refused"),
    [
        (".", 1, "metrics.jsonl"),
        (".", 6, "checkpoint step_000006"),
        ("checkpoints", 9, "checkpoint step_000010"),
        ("rollouts", 7, "rollouts/000008.jsonl"),
    ],
)
def test_a_folder_that_turns_read_only_costs_no_checkpoint(
    tiny: Path, whole_story: dict[str, Any], part: str, step: int, refused: str
) -> None:
    folder = run_folder(tiny)
    recipe = load(str(tiny))

    def turn(number: int, _: dict[str, Any]) -> None:
        if number == step:
            set_writable(folder / part, False)

    console = SafeConsole(quiet=True)
    try:
        with without_override(), pytest.raises(RunError) as raised:
            train(recipe, callbacks=[turn], console=console)
        said = str(raised.value)
        saved = max((path.name for path in (folder / "checkpoints").glob("step_*")), default="")
        safe = f"the run is safe up to {saved}" if saved else "no checkpoint was lost"
        assert said.startswith(
            f"{refused} could not be written: Permission denied; {safe}; make "
        )
        assert said.endswith("writable and rerun with --resume")
        with without_override(), pytest.raises(RunError, match="make .* writable and rerun"):
            train(recipe, console=console, resume=True)
    finally:
        set_writable(folder, True)
    assert main(["train", str(folder), "--resume"]) == 0
    left = story(folder)
    for name in left:
        assert left[name] == whole_story[name], f"{name} differ after {refused} was refused"
