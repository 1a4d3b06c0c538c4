"""Two hosts, as far as one machine has them: two network namespaces that a cable joins."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SERVER, LEARNER = "rlcore-server", "rlcore-learner"
ADDRESS = {SERVER: "10.77.0.2", LEARNER: "10.77.0.1"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextmanager
def two_hosts() -> Iterator[None]:
    """Skips the test where the machine makes no namespaces."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip")
    try:
        for name in ADDRESS:
            ip("netns", "add", name)
    except subprocess.CalledProcessError:
        pytest.skip("this machine makes no network namespaces")
    try:
        ip("link", "add", "end0", "netns", SERVER, "type", "veth", "peer", "end0", "netns", LEARNER)
        for name, address in ADDRESS.items():
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "end0")
            for device in ("lo", "end0"):
                ip("-n", name, "link", "set", device, "up")
        yield
    finally:
        for name in ADDRESS:
            ip("netns", "del", name)


def start_on(host: str, log: Path, command: list[str], *, cwd: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """A command in a host's namespace; its output goes to `log`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **variables}
    with log.open("w") as output:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, *command], stdout=output, stderr=subprocess.STDOUT, text=True, env=environment, cwd=cwd
        )


def start_rlcore_on(host: str, log: Path, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    return start_on(host, log, [sys.executable, "-m", "rlcore", *map(str, arguments)], **variables)


def wait_for(holds: Callable[[], bool], process: subprocess.Popen[str], log: Path, deadline_s: float = 300) -> None:
    until = time.monotonic() + deadline_s
    while not holds():
        assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.1)
