"""A run for all tests of the report: four steps, cut after the second, in which every completion is truncated."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.terminal import SafeConsole
from tests.report.planted import FAILURES, write_planted


@pytest.fixture(scope="session")
def ill(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ill")
    recipe = write_planted(folder, FAILURES["all-truncated"], "ill")
    with contextlib.chdir(folder):
        for steps in (2, 4):
            stopped = load(str(recipe), [f"stages.rl.steps={steps}"])
            train(stopped, resume=steps > 2, console=SafeConsole(quiet=True))
    return folder / "runs/ill"
