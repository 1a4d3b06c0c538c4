"""The sandbox of this machine, seen from outside: one warm harness a process, one fork of it and one scratch folder a job."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from rewards.sandbox.contain import architecture
from rewards.sandbox.wire import Gone, Line

PATIENCE_S = 5.0
"""Seconds beyond a job's own deadline before the warm harness is given up."""


class SandboxError(Exception):
    """Nothing could be judged: the sandbox or the tests are at fault, not the program."""


class SessionEnded(Exception):
    """The interpreter of a session has ended; the message says how."""


class Local:
    """A warm harness. It dies with the thread that made it, and every job with it."""

    _here: Local | None = None
    _lock = threading.Lock()

    @classmethod
    def here(cls, script: Callable[[str], str]) -> Local:
        """The one of this process. Raises `SandboxError` where programs cannot be confined."""
        if architecture() is None:
            raise SandboxError("programs are confined on Linux on x86_64 and aarch64 only")
        with cls._lock:
            if cls._here is None or cls._here.owner != os.getpid() or not cls._here.alive():
                cls._here = Local(script)
            return cls._here

    def __init__(self, script: Callable[[str], str]) -> None:
        self.owner = os.getpid()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        call = f"serve({theirs.fileno()}, {os.getpid()})"
        with theirs:
            # No site-packages, no environment: what is there could be read. In our process group, so that it dies with it.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", script(call)],
                env={"LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(theirs.fileno(),),
            )
        self._control = ours
        atexit.register(self.close)

    def alive(self) -> bool:
        """Whether it still takes jobs."""
        return self._process.poll() is None

    def close(self) -> None:
        """Kill it and all its jobs."""
        atexit.unregister(self.close)
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()
        self._control.close()

    def connect(self, settings: Mapping[str, Any]) -> socket.socket:
        """Fork the harness for one job or session: our end of its line. Raises `SandboxError`."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(
                    self._control, [json.dumps(settings).encode()], [theirs.fileno()]
                )
            except OSError as error:
                ours.close()
                self.close()
                raise SandboxError(f"the sandbox does not take jobs: {error}") from None
        return ours

    def run(self, job: Mapping[str, Any], limits: Mapping[str, Any]) -> dict[str, Any]:
        """One job's report. Raises `SandboxError` if there is none."""
        deadline = time.monotonic() + limits["wall_s"] + PATIENCE_S
        scratch = tempfile.mkdtemp(prefix="rlcore-")
        ours = self.connect({**limits, "scratch": scratch})
        line = Line(ours, longest=1 << 28)
        try:
            line.send(dict(job), deadline)
            return line.receive(deadline)
        except (Gone, OSError) as error:
            if self.alive() and isinstance(error, Gone) and time.monotonic() < deadline:
                # one job's judge ended, not the harness
                return _ended()
            self.close()
            raise SandboxError(f"the sandbox gave no report: {error}") from None
        finally:
            ours.close()
            shutil.rmtree(scratch, ignore_errors=True)


class Session:
    """One interpreter in the sandbox, which keeps its names from text to text."""

    def __init__(self, harness: Local, limits: Mapping[str, Any]) -> None:
        self._limits = limits
        self._scratch = tempfile.mkdtemp(prefix="rlcore-")
        try:
            settings = {**limits, "scratch": self._scratch, "is_session": True}
            self._line = Line(harness.connect(settings), longest=1 << 28)
        except SandboxError:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise

    def run(self, source: str) -> str:
        """What the text prints. Raises `SessionEnded` where the interpreter is gone, `SandboxError` where there is none."""
        deadline = time.monotonic() + self._limits["wall_s"] + PATIENCE_S
        try:
            self._line.send(source, deadline)
            reply = self._line.receive(deadline)
        except (Gone, OSError) as error:
            self.close()
            raise SessionEnded(str(error)) from None
        if reply["refused"]:
            raise SandboxError(reply["refused"])
        if reply["ended"]:
            self.close()
            raise SessionEnded(reply["ended"])
        return reply["output"]

    def close(self) -> None:
        """End the interpreter, and remove what it wrote."""
        self._line.end.close()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _ended() -> dict[str, Any]:
    reason = "the tests did not come to an end on what the program gave them"
    return {"results": [], "trouble": reason, "refused": ""}
