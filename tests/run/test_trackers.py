"""wandb and trackio, where they are installed: the recipe, the numbers, the completions, and one run after a resume."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rlcore.run.folder import RunFolder, read_rows
from tests.run.whole import finish, kill_when, start, write_recipe

pytestmark = pytest.mark.slow


def killed_and_resumed(folder: Path, name: str) -> RunFolder:
    """The tiny run with one tracker, killed in its rl stage and resumed."""
    recipe = write_recipe(folder)
    tracker = f"run.trackers=[{name}]"
    run = RunFolder(folder / "runs/tiny")
    process = start("train", recipe, tracker, cold=True)
    kill_when(process, lambda: run.metrics.exists() and len(read_rows(run.metrics)) >= 9)
    finish(start("train", recipe, tracker, "--resume", cold=True))
    return run


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = killed_and_resumed(tmp_path, "wandb")
    parts = [path.name.split("-", 4) for path in run.path.glob("wandb/offline-*")]
    runs = {run_id for *_, run_id in parts}
    assert len(runs) == 1, "both processes report to one run"
    shown = set()
    for path in run.path.glob("wandb/*/files/media/table/rollouts_*.json"):
        table = json.loads(path.read_text())
        rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
        shown |= {(row["task"], row["text"]) for row in rows}
    for _, path in run.rollout_files():
        row = read_rows(path)[0]
        assert (row["task"], row["text"]) in shown


def test_trackio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = killed_and_resumed(tmp_path, "trackio")
    with closing(sqlite3.connect(tmp_path / "trackio/tiny.db")) as database:
        names = {name for (name,) in database.execute("select run_name from metrics")}
        rows = database.execute("select step, metrics from metrics").fetchall()
        [config] = {text for (text,) in database.execute("select config from configs")}
    assert len(names) == 1
    losses = {step: json.loads(text)["loss"] for step, text in rows if b'"loss"' in bytes(text)}
    assert losses.keys() >= set(range(1, 13))
    logged = {row["step"]: row["loss"] for row in read_rows(run.metrics)}
    assert losses == pytest.approx({step: logged[step] for step in losses})
    assert json.loads(config)["stages"][0]["kind"] == "sft"
