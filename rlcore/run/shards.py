"""The shards of all ranks in one checkpoint: each rank writes its own, and the first one waits for them.

They meet through files, `rank_00003.json` beside `rank_00003.safetensors`, since a thread that
writes while the learner goes on must not take part in collective operations.
"""

from __future__ import annotations

import errno
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.errors import RunError, first_line
from rlcore.learner import shard_files
from rlcore.learner.shard_files import Shards
from rlcore.run.checkpoint import Cursor, checksum, read
from rlcore.run.disk import is_full
from rlcore.run.processes import on_all

if TYPE_CHECKING:
    from accelerate import Accelerator

POLL_S = 0.05


def write_shards(shards: Shards, folder: Path, rank: int) -> None:
    """Write this rank's shards, and beside them their checksum, or why they could not be written."""
    path = _path(folder, rank)
    outcome: dict[str, Any] = {}
    folder.mkdir(exist_ok=True)  # in a draft that may be gone: its parents are not made again
    try:
        shard_files.write(shards, path)
        outcome["checksum"] = checksum(path)
    except Exception as error:
        outcome["error"] = first_line(error)
        outcome["errno"] = errno.ENOSPC if is_full(error) else errno.EIO
        raise
    finally:
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps(outcome), encoding="utf-8")
        draft.replace(path.with_suffix(".json"))


def wait_for_shards(folder: Path, ranks: int, timeout_s: float) -> dict[str, str]:
    """File name -> checksum, once every rank has written.

    Raises `OSError` where a rank could not write, and `RunError` where one has not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    found = {}
    for rank in range(ranks):
        path = _path(folder, rank)
        said = path.with_suffix(".json")
        while not said.exists():
            if time.monotonic() > deadline:
                raise RunError(
                    f"process {rank} has not written its part of the checkpoint within run.timeout_s="
                    f"{timeout_s:g} seconds: read its output, and see that it shares the folder {folder}"
                )
            time.sleep(POLL_S)
        outcome = json.loads(said.read_text(encoding="utf-8"))
        if "error" in outcome:
            sentence = f"process {rank} could not write its part: {outcome['error']}"
            raise OSError(outcome["errno"], sentence)
        found[path.name] = outcome["checksum"]
        said.unlink()
    return found


def read_together(path: Path, accelerator: Accelerator) -> tuple[Cursor, dict[str, Any]]:
    """`checkpoint.read` by all ranks, which share the work of verifying the files. Collective."""
    share = accelerator.process_index, accelerator.num_processes
    return on_all(accelerator, lambda: read(path, share=share))


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rank_{rank:05d}.safetensors"
