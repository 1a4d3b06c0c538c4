"""A server and a learner on two hosts, as far as one machine has them: two network namespaces, and the cable between them pulled."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.launch.two_hosts import (
    ADDRESS,
    LEARNER,
    SERVER,
    ip,
    start_rlcore_on,
    two_hosts,
    wait_for,
)
from tests.run.whole import run_folder, write_recipe

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module")
def hosts() -> Iterator[None]:
    with two_hosts():
        yield


def test_a_run_outlives_a_cut_between_the_hosts(hosts: None, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    serving, training = tmp_path / "serve.log", tmp_path / "train.log"
    server = start_rlcore_on(SERVER, serving, "serve", recipe, "--host", ADDRESS[SERVER])
    try:
        wait_for(lambda: "RLCORE_SERVERS=" in serving.read_text(), server, serving)
        [line] = [x for x in serving.read_text().splitlines() if x.startswith("RLCORE_SERVERS=")]
        assert line == f"RLCORE_SERVERS=http://{ADDRESS[SERVER]}:8000"
        learner = start_rlcore_on(
            LEARNER,
            training,
            "train",
            recipe,
            "engine.use=vllm_server",
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
