"""Interpreters with other libraries, which conflict with those of a training run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

INSTALL_S = 600


@pytest.fixture(scope="session")
def interpreter(request: pytest.FixtureRequest) -> Callable[..., str]:
    """The path of a Python with these packages, in a virtual environment that is kept between runs. Skips where pip cannot make it."""
    cache = request.config.cache
    assert cache is not None

    def python_with(*requirements: str) -> str:
        name = hashlib.sha256(repr(requirements).encode()).hexdigest()[:12]
        folder = Path(cache.mkdir("interpreters")) / name
        python = folder / "bin" / "python"
        ready = folder / "ready"
        if not ready.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            command = [str(python), "-m", "pip", "install", "-q", *requirements]
            done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
            if done.returncode:
                pytest.skip(f"pip cannot install {' '.join(requirements)}: {done.stderr.strip()[-200:]}")
            ready.touch()
        return str(python)

    return python_with
