"""Several processes of one run: how long one waits for another, and what it says when that ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from rlcore.errors import RlcoreError, RunError, first_line
from rlcore.run.ending import resume_command


def group_settings(timeout_s: float) -> InitProcessGroupKwargs:
    """For `Accelerator(kwargs_handlers=[...])`: the longest wait in a collective operation."""
    return InitProcessGroupKwargs(timeout=timedelta(seconds=timeout_s))


def on_main(accelerator: Accelerator, action: Callable[[], None]) -> None:
    """Run `action` on the main process while the others wait. They end without a word where it raises."""
    refusal: RlcoreError | None = None
    if accelerator.is_main_process:
        try:
            action()
        except RlcoreError as error:
            refusal = error
    outcome = [refusal is not None]
    broadcast_object_list(outcome)
    if refusal is not None:
        raise refusal
    if outcome[0]:
        raise SystemExit(2)


@contextmanager
def lost_process_named(timeout_s: float, folder: Path) -> Iterator[None]:
    """Inside, the failure of a collective operation is raised as a `RunError`."""
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors that name its source files.
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise RunError(
            "another process of this run has ended, or has not answered within run.timeout_s="
            f"{timeout_s:g} seconds: read the output of the other processes, then go on with: "
            f"{resume_command(folder)} ({first_line(error)})"
        ) from error
