"""A process that runs a user's code and can be killed at any time, with everything that it started."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

from rlcore.workers.output import Output
from rlcore.workers.strays import MARK, kill_strays

KILL_WAIT_S = 10.0
_BOOT = (
    "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[1]) or sys.path; sys.path += json.loads(sys.argv[2]); "
    "module, _, name = sys.argv[3].partition(':'); "
    "getattr(importlib.import_module(module), name)(*map(int, sys.argv[4:]))"
)


class WorkerProcess:
    """A fresh interpreter that calls `entry(descriptor, parent)`; the descriptor is its end of a socket.

    entry: `package.module:function`. python: another interpreter, which has its own packages; of this one's
    it only sees rlcore.
    """

    def __init__(self, entry: str, *, python: str | None = None) -> None:
        self._entry = entry
        self._folder = os.getcwd()
        self._python = python or sys.executable
        own = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        replaced: list[str] = [] if python else sys.path
        self._paths = [json.dumps(replaced), json.dumps([own, ""] if python else [])]
        self._process: subprocess.Popen[bytes] | None = None
        self._output = Output()
        self._token = f"{os.getpid()}-{os.urandom(8).hex()}"

    @property
    def pid(self) -> int | None:
        """Process id, None before the start and after a kill."""
        return self._process.pid if self._process else None

    def start(self) -> socket.socket:
        """Start the process; this side's end of the socket."""
        ours, theirs = socket.socketpair()
        descriptor = theirs.fileno()
        said, says = os.pipe()
        command = [self._python, "-c", _BOOT, *self._paths, self._entry]
        try:
            self._process = subprocess.Popen(
                [*command, str(descriptor), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=says,
                stderr=says,
                pass_fds=(descriptor,),
                start_new_session=True,
                cwd=self._folder,
                env={**os.environ, MARK: self._token},
            )
        except OSError:
            ours.close()
            os.close(said)
            raise
        finally:
            theirs.close()
            os.close(says)
        self._output.follow(said)
        return ours

    def kill(self) -> None:
        """Kill the process and all that it started."""
        process = self._process
        self._process = None
        if process is None:
            return
        try:
            # The whole process group: processes that a plugin started are killed too.
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        kill_strays(self._token)
        self._output.end()
        try:
            process.wait(KILL_WAIT_S)
        except subprocess.TimeoutExpired:
            pass  # held by the kernel; `subprocess` collects it when it is gone

    def cause_of_death(self, error: Exception) -> str:
        """Why its connection broke with this error, in words."""
        try:
            code = self._process.wait(1.0) if self._process else None
        except subprocess.TimeoutExpired:
            return f"the worker process closed its connection ({type(error).__name__})"
        if code is not None and code < 0:
            return f"the worker process died of {_signal_name(-code)}"
        return f"the worker process ended with exit code {code}"


def die_with(parent: int) -> None:
    """Inside a worker: end it, and what it started, when the parent is gone. Runs in a thread."""
    while os.getppid() == parent:
        time.sleep(1.0)
    kill_strays(os.environ.get(MARK, ""))
    os.killpg(0, signal.SIGKILL)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
