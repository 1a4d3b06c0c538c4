"""Processes that a worker started: found by a mark in their environment, wherever they went.

A child that begins a session of its own leaves the worker's process group, and would outlive it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

MARK = "RLCORE_WORKER"
"""Environment variable with the worker's token; children inherit it."""


def kill_strays(token: str) -> int:
    """Kill every other process that carries the token; how many there were. Linux only."""
    wanted = f"{MARK}={token}".encode()
    number = 0
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        if pid == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(pid, signal.SIGKILL)
                number += 1
        except OSError:  # it has ended, or belongs to somebody else
            continue
    return number
