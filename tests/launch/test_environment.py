"""launch/environment.sh makes .venv anew where the requirements changed, also while that .venv is active."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "launch/environment.sh"


def test_an_active_environment_is_made_anew(tmp_path: Path) -> None:
    """Its interpreter is removed on the way, so the one behind it has to be taken."""
    (tmp_path / "launch").mkdir()
    shutil.copy(SCRIPT, tmp_path / "launch")
    (tmp_path / "launch/constraints-cpu.txt").write_text("torch==0\n")
    (tmp_path / "pyproject.toml").write_text("")
    venv = tmp_path / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (venv / "of an earlier version").write_text("")
    path = f"{venv}/bin:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "RLCORE_DEVICE": "cpu", "PIP_NO_INDEX": "1"}
    # What is installed into it cannot be had without an index; the environment itself can.
    subprocess.run(["bash", "-c", ". launch/environment.sh"], cwd=tmp_path, env=environment, capture_output=True, timeout=120)
    assert not (venv / "of an earlier version").exists()
    assert subprocess.run([venv / "bin/python", "-c", "import sys"]).returncode == 0
