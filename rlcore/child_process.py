"""Child processes that end when the process that started them is gone, also if it was killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def ending_with_this_process(words: Sequence[str]) -> list[str]:
    """A command that runs another one, which gets SIGTERM when the calling process is gone (Linux)."""
    return [sys.executable, "-m", __name__, str(os.getpid()), *words]


def _main(parent: str, *words: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() == int(parent):
        os.execvp(words[0], words)


if __name__ == "__main__":
    _main(*sys.argv[1:])
