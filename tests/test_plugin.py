"""Parts in files: a file is executed once per content, and a broken one is named in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RecipeError, RewardError
from rlcore.plugin import build, find, import_file

COUNTING = """
from pathlib import Path

counter = Path(__file__).with_suffix(".count")
counter.write_text(counter.read_text() + "x" if counter.exists() else "x")


def first():
    return "first"


def second():
    return "second"


class Third:
    name = "third"
"""


def executions(path: Path) -> int:
    return len(path.with_suffix(".count").read_text())


def test_a_file_that_names_three_parts_is_executed_once(tmp_path: Path) -> None:
    path = tmp_path / "my_parts.py"
    path.write_text(COUNTING)
    assert find(f"{path}:first", {}, what="reward")() == "first"
    assert build(f"{path}:second", {}, what="curriculum") == "second"
    roundabout = tmp_path / "folder" / ".." / "my_parts.py"
    (tmp_path / "folder").mkdir()
    assert find(f"{roundabout}:Third.name", {}, what="environment") == "third"
    assert executions(path) == 1


def test_a_changed_file_is_executed_again(tmp_path: Path) -> None:
    path = tmp_path / "my_parts.py"
    path.write_text(COUNTING)
    before = import_file(path)
    path.write_text(COUNTING.replace('"first"', '"other"'))  # same size, within the same second
    assert find(f"{path}:first", {}, what="reward")() == "other"
    assert before.first() == "first"
    assert executions(path) == 2


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "parts.py").write_text(f"folder = {folder!r}\n")
    modules = [import_file(tmp_path / folder / "parts.py") for folder in ("a", "b", "a")]
    assert [module.folder for module in modules] == ["a", "b", "a"]
    assert modules[0] is modules[2]


def test_an_import_error_names_file_and_line_each_time(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import math\nmath.nothing\n")
    for _ in range(2):
        with pytest.raises(RewardError, match=r"cannot import .*broken.py: AttributeError.*py:2\)"):
            find(f"{path}:reward", {}, what="reward", error=RewardError)
    path.write_text("def sharp(:\n")
    with pytest.raises(RecipeError, match="SyntaxError"):
        find(f"{path}:sharp", {}, what="curriculum")
    path.write_text("def sharp(): ...\n")
    assert callable(find(f"{path}:sharp", {}, what="curriculum"))
    with pytest.raises(RecipeError, match="no 'sharf'.*did you mean 'sharp'"):
        find(f"{path}:sharf", {}, what="curriculum")
    with pytest.raises(RecipeError, match="no curriculum file .*did you mean 'broken.py'"):
        find(f"{tmp_path}/brokn.py:sharp", {}, what="curriculum")
