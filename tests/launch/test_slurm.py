"""launch/slurm/train.sbatch in a Slurm cluster of two nodes inside this machine, with processes on its CPU."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.launch.cluster import cluster, why_not
from tests.run.whole import finish, run_folder, start, untimed, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "launch/slurm/train.sbatch"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with cluster(tmp_path_factory.mktemp("slurm")) as environment:
        on_cpu = {"GPUS": "0", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
        yield environment | on_cpu | {"PYTHONPATH": str(ROOT)}


def submit(slurm: dict[str, str], folder: Path, *arguments: str, **settings: str) -> str:
    """The number of a job of the script that was submitted."""
    command = ["sbatch", "--parsable", f"--output={folder}/out", str(SCRIPT), *arguments]
    done = subprocess.run(
        command, env=slurm | settings, cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def job(slurm: dict[str, str], number: str) -> dict[str, str]:
    command = ["scontrol", "show", "job", number]
    said = subprocess.run(command, env=slurm, capture_output=True, text=True, check=True).stdout
    return dict(word.split("=", 1) for word in said.split() if "=" in word)


def end_of(slurm: dict[str, str], number: str, timeout_s: float = 240) -> str:
    until = time.monotonic() + timeout_s
    while (state := job(slurm, number)["JobState"]) not in ("COMPLETED", "FAILED", "CANCELLED"):
        assert time.monotonic() < until, state
        time.sleep(0.5)
    return state


def metrics(recipe: Path) -> list[dict]:
    return untimed(read_rows(run_folder(recipe) / "metrics.jsonl"))


def test_two_nodes_train_together(slurm: dict[str, str], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    number = submit(slurm, tmp_path, str(recipe))
    state = end_of(slurm, number)
    out = (tmp_path / "out").read_text()
    assert state == "COMPLETED", out
    assert "2 process(es) on cpu" in out and len(metrics(recipe)) == 12


def test_a_job_whose_time_is_over_goes_on_when_it_is_requeued(
    slurm: dict[str, str], tmp_path: Path
) -> None:
    alone, cut = tmp_path / "alone", tmp_path / "cut"
    for folder in (alone, cut):
        folder.mkdir()
        write_recipe(folder)
    finish(start("train", alone / "tiny.yaml", "stages.rl.steps=40", processes=2))
    recipe = cut / "tiny.yaml"
    number = submit(slurm, cut, str(recipe), "stages.rl.steps=40")
    until = time.monotonic() + 120
    while len(read_rows(run_folder(recipe) / "metrics.jsonl")) < 12:
        assert time.monotonic() < until, (cut / "out").read_text()
        time.sleep(0.05)
    command = ["scancel", "--batch", "--signal=USR1", number]
    subprocess.run(command, env=slurm, check=True, timeout=30)
    until = time.monotonic() + 60
    while job(slurm, number)["Restarts"] == "0":
        assert time.monotonic() < until, (cut / "out").read_text()
        time.sleep(0.2)
    # Slurm holds a requeued job back for two minutes. Here it may go on sooner, but not at once: a node refuses
    # to launch a job in the second in which it killed it ("Job credential revoked"), and Slurm calls that a failure.
    subprocess.run(
        ["scontrol", "update", f"job={number}", "starttime=now+10"],
        env=slurm,
        check=True,
        timeout=30,
    )
    state = end_of(slurm, number)
    out = (cut / "out").read_text()
    assert state == "COMPLETED" and "requeued" in out, out
    assert "resumed after step" in out, out
    assert metrics(recipe) == metrics(alone / "tiny.yaml")


def test_servers_that_die_do_not_end_the_job(slurm: dict[str, str], tmp_path: Path) -> None:
    """The recipe's engine is in process, so its servers are of no use: whatever becomes of them, the learner ends well."""
    recipe = write_recipe(tmp_path)
    number = submit(slurm, tmp_path, str(recipe), SERVE="1", VENV=str(tmp_path / "none"))
    state = end_of(slurm, number)
    out = (tmp_path / "out").read_text()
    assert state == "COMPLETED", out
    assert "servers: http://n1:8000" in out and "1 process(es) on cpu" in out, out


def test_learners_that_fail_end_the_job(slurm: dict[str, str], tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    number = submit(slurm, tmp_path, str(recipe), "stages.rl.stepz=1", MAX_RESTARTS="0")
    assert end_of(slurm, number) == "FAILED"
    assert "stepz" in (tmp_path / "out").read_text()
