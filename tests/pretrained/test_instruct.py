"""launch/instruct.sh as the README names it, on the installed environment and with one step."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


def test_the_script_trains_the_model_and_ends_with_json(smollm2: Path, tmp_path: Path) -> None:
    launch = tmp_path / "launch"
    launch.mkdir()
    shutil.copy(ROOT / "launch/instruct.sh", launch)
    # In place of the installation: the environment that runs this test.
    binaries = Path(sys.executable).parent
    (launch / "environment.sh").write_text(f"export PATH={binaries}:$PATH\n")
    settings = ["stages.rl.steps=1", "stages.rl.groups_per_step=2", f"run.folder={tmp_path}/runs"]
    limits = ["stages.before.limit=4", "stages.after.limit=4"]
    done = subprocess.run(
        ["bash", str(launch / "instruct.sh"), "--quick", *settings, *limits],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert len(summary["evaluations"]["eval_set"]["accuracy"]) == 2
    rows = (tmp_path / "runs/instruct/eval.jsonl").read_text().splitlines()
    for row in map(json.loads, rows):
        assert row["completions/distinct_words/mean"] > 1
        assert -5 < row["completions/initial_logprob"] < 0
