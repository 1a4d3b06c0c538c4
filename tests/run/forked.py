"""Commands in processes that are forked from one which has imported the engine already: a cold start is 5 s of imports each.

What is forked shares its hash seed and the state of `random` with others; a test that compares runs bit for bit starts one of
them cold (`whole.start(..., cold=True)`), so that nothing may depend on either.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import forkserver
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.run.warm"])


class Forked:
    """One command under way, with the part of `subprocess.Popen` that the tests use. A `.py` file is run as a script."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        _warm(environment)
        self._said = [
            Path(tempfile.mkstemp(prefix=f"rlcore_{name}_")[1]) for name in ("out", "err")
        ]
        self._process = _CONTEXT.Process(
            target=_run, args=(command, dict(environment), os.getcwd(), self._said)
        )
        self._process.start()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it printed, once it has ended; it is killed when the time is up."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        out, err = (path.read_text(encoding="utf-8") for path in self._said)
        for path in self._said:
            path.unlink()
        return out, err


class Launched:
    """Several processes of one command, told of each other as torchrun does."""

    def __init__(self, command: list[str], environment: Mapping[str, str], processes: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        group = {
            "WORLD_SIZE": processes,
            "LOCAL_WORLD_SIZE": processes,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        self._ranks = [
            Forked(
                command,
                {
                    **environment,
                    **{k: str(v) for k, v in {**group, "RANK": rank, "LOCAL_RANK": rank}.items()},
                },
            )
            for rank in range(processes)
        ]

    @property
    def returncode(self) -> int | None:
        return next((rank.returncode for rank in self._ranks if rank.returncode != 0), 0)

    def poll(self) -> int | None:
        return next((code for rank in self._ranks if (code := rank.poll()) is not None), None)

    def send_signal(self, number: int) -> None:
        for rank in self._ranks:
            rank.send_signal(number)

    def communicate(self, timeout: float) -> tuple[str, str]:
        """When one of them fails or the time is up, the others are killed: they would wait for it."""
        until = time.monotonic() + timeout
        while (
            None in (codes := [rank.poll() for rank in self._ranks])
            and not any(codes)
            and time.monotonic() < until
        ):
            time.sleep(0.02)
        timeout = 0.0 if any(codes) or time.monotonic() >= until else None
        said = [rank.communicate(timeout) for rank in self._ranks]
        return "".join(out for out, _ in said), "\n".join(err for _, err in said)


def _warm(environment: Mapping[str, str]) -> None:
    """Start the process that is forked, with what libraries read when they are imported."""
    kept = dict(os.environ)
    os.environ.update(environment)
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _run(command: list[str], environment: Mapping[str, str], folder: str, said: list[Path]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for path, descriptor in zip(said, (1, 2), strict=True):
        os.dup2(os.open(path, os.O_WRONLY), descriptor)
    if command[0].endswith(".py"):
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")
        return
    from rlcore.cli.main import main

    sys.exit(main(command))
