"""A server and a learner on two hosts, as far as one machine has them: two network namespaces, and the cable between them pulled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.run.whole import run_folder, write_recipe

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

SERVER, LEARNER = "rlcore-server", "rlcore-learner"
ADDRESS = {SERVER: "10.77.0.2", LEARNER: "10.77.0.1"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    """Two namespaces, joined by one cable."""
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


def start_on(host: str, log: Path, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    command = ["ip", "netns", "exec", host, sys.executable, "-m", "rlcore", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **variables}
    with log.open("w") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment
        )


def wait_for(holds, process: subprocess.Popen[str], log: Path, deadline_s: float = 300) -> None:
    until = time.monotonic() + deadline_s
    while not holds():
        assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.1)


def test_a_run_outlives_a_cut_between_the_hosts(hosts: None, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    serving, training = tmp_path / "serve.log", tmp_path / "train.log"
    server = start_on(SERVER, serving, "serve", recipe, "--host", ADDRESS[SERVER])
    try:
        wait_for(lambda: "RLCORE_SERVERS=" in serving.read_text(), server, serving)
        [line] = [x for x in serving.read_text().splitlines() if x.startswith("RLCORE_SERVERS=")]
        assert line == f"RLCORE_SERVERS=http://{ADDRESS[SERVER]}:8000"
        learner = start_on(
            LEARNER,
            training,
            "train",
            recipe,
            "engine.use=vllm_server",
            f"engine.folder={tmp_path}",
            "stages.rl.max_staleness=1",
            "stages.rl.steps=40",
            RLCORE_SERVERS=line.partition("=")[2],
        )
        metrics = run_folder(recipe) / "metrics.jsonl"
        wait_for(lambda: rl_steps(metrics) >= 3, learner, training)
        ip("-n", SERVER, "link", "set", "end0", "down")
        before = rl_steps(metrics)
        time.sleep(20)  # three health checks of 3 s fail
        assert rl_steps(metrics) <= before + 2 and learner.poll() is None
        ip("-n", SERVER, "link", "set", "end0", "up")
        assert learner.wait(300) == 0, training.read_text()[-3000:]
    finally:
        server.terminate()
        server.wait(60)
    assert rl_steps(metrics) == 40


def rl_steps(path: Path) -> int:
    rows = read_rows(path) if path.exists() else []
    return sum("reward/mean" in row for row in rows)
