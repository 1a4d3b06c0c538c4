"""The tiny recipe, and the story of its uninterrupted run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.run.whole import finish, run_folder, start, story, write_recipe


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


@pytest.fixture(scope="session")
def whole_story(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the run leaves when nothing interrupts it; `out` is what it printed.

    Started cold: with other hashes of strings, and another state of `random`, than the runs that must end as it does.
    """
    recipe = write_recipe(tmp_path_factory.mktemp("whole"))
    out = finish(start("train", recipe, "--json", cold=True))
    return {**story(run_folder(recipe)), "folder": run_folder(recipe), "out": out}
