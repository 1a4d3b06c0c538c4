"""The table of docs/methods.md that says which test shows what: every test that it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECTION = "## Which test shows it"


def named() -> list[tuple[str, str]]:
    """(file, function) of each test in the table."""
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    section = page.split(SECTION)[1].split("\n## ")[0]
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", section)


def test_the_table_names_tests_that_exist() -> None:
    tests = named()
    assert len(tests) > 30
    missing = []
    for file, function in tests:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        if function not in functions or not function.startswith("test_"):
            missing.append(f"{file}::{function}")
    assert not missing


def test_every_row_names_a_test() -> None:
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    section = page.split(SECTION)[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| method")]
    assert len(rows) > 15
    for row in rows:
        assert "::test_" in row.rsplit(" | ", 1)[1], row
