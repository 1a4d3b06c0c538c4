"""Whole runs with vLLM servers: `rlcore serve` beside `rlcore train`, servers and runs that are killed, an adapter."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from rlcore.run.folder import read_rows
from tests.run.test_evaluation_engines import check_between_steps, evaluate, trained
from tests.run.whole import finish, run_folder, start, write_recipe

pytest.importorskip("vllm")
pytestmark = [pytest.mark.vllm, pytest.mark.slow]

PORT = 18600
SERVED = (
    "engine.use=vllm_server",
    "stages.rl.max_staleness=1",
    "run.checkpoint_every=1",
    # groups of equal rewards count, so that every step has an update and publishes
    "stages.rl.credit.zero_variance=keep",
)


class Serve:
    """`rlcore serve` with two servers, and what it prints."""

    def __init__(self, folder: Path) -> None:
        recipe = write_recipe(folder)
        self.output = folder / "serve.log"
        with self.output.open("w") as output:
            self.process = start_in_background(
                output, "serve", recipe, "--replicas", "2", "--port", str(PORT)
            )
        self.wait_for(r"^RLCORE_SERVERS=(.*)$", 300)
        self.servers = re.search(r"RLCORE_SERVERS=(.*)", self.output.read_text())[1]

    def wait_for(self, pattern: str, deadline_s: float) -> None:
        until = time.monotonic() + deadline_s
        while not re.search(pattern, self.output.read_text(), re.MULTILINE):
            assert self.process.poll() is None, self.output.read_text()
            assert time.monotonic() < until, self.output.read_text()
            time.sleep(0.2)

    def pid(self, port: int) -> int:
        """Of the server at a port."""
        listing = subprocess.run(["ps", "axww", "-o", "pid,args"], capture_output=True, text=True)
        for line in listing.stdout.splitlines():
            if f"--port {port}" in line and "api_server" in line and "--replicas" not in line:
                return int(line.split()[0])
        raise AssertionError(f"no server listens at {port}")


def start_in_background(output: IO[str], *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rlcore", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        command, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment
    )


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    serve = Serve(tmp_path_factory.mktemp("serve"))
    yield serve
    if serve.process.poll() is None:
        serve.process.terminate()
        serve.process.wait(60)


@pytest.fixture(autouse=True)
def served(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLCORE_SERVERS", serve.servers)


def when(holds: Callable[[], bool], deadline_s: float = 240) -> None:
    until = time.monotonic() + deadline_s
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def rl_steps(folder: Path) -> list[dict]:
    path = folder / "metrics.jsonl"
    rows = read_rows(path) if path.exists() else []
    return [row for row in rows if "reward/mean" in row]


def test_a_run_goes_on_while_one_of_its_servers_is_killed(serve: Serve, tmp_path: Path) -> None:
    """Two ranks, one batch ahead. The server is started again and serves the next run."""
    recipe = write_recipe(tmp_path)
    process = start("train", recipe, *SERVED, "stages.rl.steps=12", processes=2)
    when(lambda: len(rl_steps(run_folder(recipe))) >= 3)
    os.kill(serve.pid(PORT), signal.SIGKILL)
    finish(process, 300)
    steps = rl_steps(run_folder(recipe))
    assert len(steps) == 12
    assert max(step["staleness/max"] for step in steps) == 1
    assert all(step["publish/gap"] < 1e-4 for step in steps if "publish/gap" in step)
    serve.wait_for(rf":{PORT} was killed by SIGKILL; it is started again", 30)
    serve.wait_for(rf"started again\n(.*\n)*.*:{PORT} is up", 240)


def test_a_run_that_is_killed_draws_what_was_under_way_again(tmp_path: Path) -> None:
    """With the same ids: nothing of the task order is skipped or drawn twice."""
    whole = write_recipe(tmp_path)
    finish(start("train", whole, *SERVED), 300)
    ids = [sorted(rollout_ids(path)) for path in rollout_files(run_folder(whole))]
    (tmp_path / "killed").mkdir()
    killed = write_recipe(tmp_path / "killed")
    process = start("train", killed, *SERVED, cold=True)
    when(lambda: len(rl_steps(run_folder(killed))) >= 2)
    process.kill()
    process.wait(60)
    finish(start("train", killed, *SERVED, "--resume"), 300)
    assert len(rl_steps(run_folder(killed))) == len(rl_steps(run_folder(whole))) == 6
    assert [sorted(rollout_ids(path)) for path in rollout_files(run_folder(killed))] == ids


def rollout_files(folder: Path) -> list[Path]:
    return sorted((folder / "rollouts").iterdir())


def rollout_ids(path: Path) -> list[str]:
    return [row["id"] for row in read_rows(path)]


def test_weights_that_are_not_loaded_in_flight_leave_one_version_in_each_completion(
    tmp_path: Path,
) -> None:
    recipe = write_recipe(tmp_path)
    finish(start("train", recipe, *SERVED, "engine.in_flight=false"), 300)
    rows = [row for path in rollout_files(run_folder(recipe)) for row in read_rows(path)]
    assert rows and all(len(row["versions"]) == 1 for row in rows)
    steps = rl_steps(run_folder(recipe))
    assert [step["staleness/mean"] for step in steps] == [0.0] + [1.0] * 5


def test_an_adapter_is_served_by_itself(tmp_path: Path) -> None:
    """Its log-probabilities are checked against the learner's at every publish."""
    recipe = write_recipe(tmp_path)
    lora = "model.peft={type: lora, r: 4, target_modules: all-linear}"
    out = finish(
        start("train", recipe, *SERVED, lora, "engine.sync=adapter", "engine.start=1"), 400
    )
    steps = rl_steps(run_folder(recipe))
    assert len(steps) == 6 and all(step["publish/gap"] < 1e-4 for step in steps)
    assert "everything is in" in out


def test_a_stage_that_ends_early_leaves_nothing_under_way(tmp_path: Path) -> None:
    """The next stage loads weights, which nothing may be in the way of."""
    recipe = write_recipe(tmp_path)
    finish(start("train", recipe, *SERVED, "stages.rl.stop_after_tokens=100"), 300)
    assert 0 < len(rl_steps(run_folder(recipe))) < 6


def test_a_served_run_evaluates_between_its_steps(tmp_path: Path) -> None:
    """Two ranks, one batch ahead, each evaluation of both task sets."""
    check_between_steps(evaluate(trained(tmp_path), *SERVED, processes=2))


def test_a_signal_ends_all_servers(serve: Serve) -> None:
    """The last test: nothing is served afterwards."""
    serve.process.terminate()
    assert serve.process.wait(60) == 0
    listing = subprocess.run(["ps", "axww", "-o", "args"], capture_output=True, text=True)
    assert f"--port {PORT}" not in listing.stdout
