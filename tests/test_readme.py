"""The README is short, its two scripts are what CI runs, and what it names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short() -> None:
    assert TEXT.count("\n") <= 200


def test_its_scripts_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    scripts = re.findall(r"bash launch/\w+\.sh", TEXT)
    assert {"bash launch/quickstart.sh", "bash launch/test.sh"} <= set(scripts)
    for script in scripts:
        assert script in ci


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", TEXT)
    assert len(targets) > 20
    for target in targets:
        assert (ROOT / target).exists(), target


def test_its_picture_is_small() -> None:
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    content = (ROOT / picture).read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) < 200_000


def test_every_page_is_named() -> None:
    """A reader who begins here meets every page that people wrote."""
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = path.relative_to(ROOT / "docs").as_posix()
        if name not in ("index.md", "environments.md"):
            assert f"(docs/{name}" in TEXT or f"({name}" in index, name
