"""The hidden file that every run folder has: it says that a run writes here, and what later starts must know."""

from __future__ import annotations

import fcntl
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

RUN_MARK = ".rlcore"
"""The process that runs holds a lock on it."""


@dataclass(frozen=True)
class RunMark:
    started_in: str = ""
    """Working directory of the first start: relative names in the recipe are looked up there too."""
    saved: str = ""
    """The last checkpoint that was written."""


def read_mark(folder: Path) -> RunMark:
    """The mark of a run folder; an empty one where it is absent or says nothing, as after a kill."""
    try:
        values = json.loads((folder / RUN_MARK).read_text(encoding="utf-8"))
        return RunMark(**{key: str(value) for key, value in values.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return RunMark()


def write_mark(file: IO[str], mark: RunMark) -> None:
    """Replace what the open mark says."""
    file.truncate(0)
    file.write(json.dumps(asdict(mark)) + "\n")
    file.flush()


def is_running(folder: Path) -> bool:
    """Whether a process of this machine holds the run's folder."""
    try:
        with (folder / RUN_MARK).open(encoding="utf-8") as mark:
            fcntl.flock(mark, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no mark, or a file system without locks
        return False
    return False
