"""Processes that do not see the same files say so before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.run.whole import TINY, start

SCRIPT = Path(__file__).with_name("other_folder.py")
ROWS = [{"prompt": f"{i}+1=", "answer": str(i + 1)} for i in range(8)]


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two folders, in which the two processes are; both have the same data and a recipe that names it."""
    folders = [tmp_path / f"node{rank}" for rank in range(2)]
    for folder in folders:
        folder.mkdir()
        (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    lines = TINY.replace(
        "  eval_set: {use: arithmetic, split: heldout, size: 8, max_number: 4, terms: [2]}",
        "  eval_set: {use: dataset, path: data.jsonl, columns: {prompt: prompt, answer: answer}}",
    )
    (tmp_path / "tiny.yaml").write_text(lines)
    monkeypatch.chdir(tmp_path)
    return folders


def run(nodes: list[Path], run_folder: str) -> tuple[int, str, Path]:
    recipe = nodes[0].parent / "tiny.yaml"
    override = f"run.folder={run_folder}"
    steps = ("stages.sft.steps=1", "stages.rl.steps=1")
    process = start("train", recipe, override, *steps, script=SCRIPT, processes=2)
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err, Path(nodes[0], run_folder) / "tiny"


def test_two_run_folders_are_refused(nodes: list[Path]) -> None:
    code, said, folder = run(nodes, "runs")
    assert code != 0
    assert "do not see the same files" in said and "the run folder" in said, said
    assert not read_rows(folder / "metrics.jsonl")


def test_other_data_are_refused(nodes: list[Path]) -> None:
    with (nodes[1] / "data.jsonl").open("a") as file:
        file.write(json.dumps(ROWS[0]) + "\n")
    code, said, folder = run(nodes, "../runs")
    assert code != 0
    assert "data.jsonl has other files or sizes" in said, said
    assert "the run folder" not in said and not read_rows(folder / "metrics.jsonl")


def test_the_same_files_under_another_working_directory_are_taken(nodes: list[Path]) -> None:
    code, said, folder = run(nodes, "../runs")
    assert code == 0, said
    assert len(read_rows(folder / "metrics.jsonl")) == 2
    assert not (folder / ".token").exists()
