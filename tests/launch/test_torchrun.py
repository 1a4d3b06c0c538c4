"""Learners that torchrun started: one is killed, and all go on from the last checkpoint; on one node and on two."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.run.whole import finish, run_folder, start, untimed, write_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
STEPS = 40


def torchrun(recipe: Path, *options: object) -> subprocess.Popen[str]:
    """An agent, whose processes train the recipe."""
    command = [sys.executable, "-m", "torch.distributed.run", *map(str, options)]
    command += ["-m", "rlcore", "train", str(recipe), f"stages.rl.steps={STEPS}", "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def process_of(agent: int, rank: int) -> int:
    """The process of an agent that has this rank."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if parent == str(agent) and f"RANK={rank}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"agent {agent} has no process of rank {rank}")


def kill_when(recipe: Path, rows: int, agent: subprocess.Popen[str], rank: int) -> None:
    until = time.monotonic() + 120
    while len(read_rows(run_folder(recipe) / "metrics.jsonl")) < rows:
        assert time.monotonic() < until and agent.poll() is None, agent.communicate()[0]
        time.sleep(0.02)
    os.kill(process_of(agent.pid, rank), signal.SIGKILL)


def metrics(recipe: Path) -> list[dict]:
    return untimed(read_rows(run_folder(recipe) / "metrics.jsonl"))


@pytest.fixture
def uninterrupted(tmp_path: Path) -> list[dict]:
    folder = tmp_path / "alone"
    folder.mkdir()
    recipe = write_recipe(folder)
    finish(start("train", recipe, f"stages.rl.steps={STEPS}", processes=2))
    return metrics(recipe)


def test_a_killed_process_costs_the_steps_since_the_checkpoint(
    tmp_path: Path, uninterrupted: list[dict]
) -> None:
    recipe = write_recipe(tmp_path)
    agent = torchrun(recipe, "--standalone", "--nproc-per-node", 2, "--max-restarts", 2)
    kill_when(recipe, 11, agent, rank=1)
    out, _ = agent.communicate(timeout=400)
    assert agent.returncode == 0, out
    assert "resumed after step" in out, out
    assert metrics(recipe) == uninterrupted


def test_two_nodes_go_on_when_a_process_of_one_is_killed(
    tmp_path: Path, uninterrupted: list[dict]
) -> None:
    """Two agents, each with one process, as launch/slurm/train.sbatch starts them."""
    recipe = write_recipe(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = [
        "--nnodes",
        2,
        "--nproc-per-node",
        1,
        "--rdzv-backend",
        "static",
        "--rdzv-id",
        "test",
    ]
    shared += ["--master-addr", "127.0.0.1", "--master-port", port, "--max-restarts", 2]
    agents = [torchrun(recipe, *shared, "--node-rank", node) for node in range(2)]
    kill_when(recipe, 11, agents[1], rank=1)
    said = [agent.communicate(timeout=400)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    assert "resumed after step" in said[0], said[0]
    assert metrics(recipe) == uninterrupted
