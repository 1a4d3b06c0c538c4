"""What a run does to its disk: a refused write is one sentence, and nothing outside is removed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from rlcore.errors import RlcoreError, RunError, first_line

FULL = (errno.ENOSPC, errno.EDQUOT)
OF_TORCH = ("inline_container", "PytorchStreamWriter")
"""What torch's plain RuntimeErrors name when a file cannot be written."""


@contextmanager
def writing(what: str, run: Path) -> Iterator[None]:
    """Inside, a write that the disk refuses is raised as a `RunError`.

    It says what is safe and what to do. `what` is written to the run folder `run`.
    """
    try:
        yield
    except RlcoreError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if type(error) is RuntimeError and not any(name in str(error) for name in OF_TORCH):
            raise
        raise write_error(what, run, error) from error


def write_error(what: str, run: Path, error: Exception) -> RunError:
    """The sentence for a refused write."""
    from rlcore.run.checkpoint import all_checkpoints  # here: it writes through this module

    saved = all_checkpoints(run / "checkpoints")
    safe = f"the run is safe up to {saved[-1].name}" if saved else "no checkpoint was lost"
    if is_full(error):
        reason = f"the disk of {run} is full ({free_space(run)} left)"
        advice = "free space there, or lower run.keep_checkpoints"
    elif not run.exists():
        reason = f"the run folder {run} was removed"
        advice = "put it back"
    else:
        reason = getattr(error, "strerror", None) or first_line(error)
        advice = f"make {run} writable"
    return RunError(
        f"{what} could not be written: {reason}; {safe}; {advice} and rerun with --resume"
    )


def is_full(error: Exception) -> bool:
    """Whether a write was refused for lack of space or quota."""
    if isinstance(error, OSError):
        return error.errno in FULL
    # Libraries that write by themselves name the number, or only that fewer bytes went out.
    text = str(error)
    return any(f"os error {number}" in text for number in FULL) or "unexpected pos" in text


def free_space(path: Path) -> str:
    """Free space of the disk that holds a path, in words."""
    while not path.exists() and path != path.parent:
        path = path.parent
    free = shutil.disk_usage(path).free
    return f"{free / 1e9:.1f} GB" if free >= 1e9 else f"{free / 1e6:.1f} MB"


def remove(path: Path, *, inside: Path) -> None:
    """Remove a folder with all that is in it, if it is there. It must lie below `inside`.

    Raises `RunError` for any other path: a name that leads out of its folder removes nothing.
    """
    whole, limit = (os.path.abspath(place) for place in (path, inside))
    if os.path.commonpath([whole, limit]) != limit or whole == limit:
        raise RunError(f"{path} is not inside {inside}: nothing was removed")
    if path.is_symlink():
        raise RunError(f"{path} is a link to another folder: remove it yourself")
    shutil.rmtree(path, ignore_errors=True)
