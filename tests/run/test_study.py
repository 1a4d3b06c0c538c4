"""A study: every cell goes on from its seed's start, may learn otherwise than the recipe, and is read back whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rlcore.analysis.study import by_cell, run_study, study_main
from rlcore.run.folder import read_rows
from tests.run.whole import write_recipe

IMITATE = "stages.rl={kind: sft, name: rl, tasks: demonstrations, steps: 2, batch_size: 4}"


def test_cells_go_on_from_the_start_of_their_seed(tmp_path: Path) -> None:
    runs = run_study(
        str(write_recipe(tmp_path)), {"rl": (), "more sft": (IMITATE,)}, seeds=[0, 1], folder=tmp_path / "study",
        common=["stages.rl.steps=2"], start_per_seed=True,
    )  # fmt: skip
    assert [(run.cell, run.seed, run.steps) for run in runs] == [
        (c, s, 2) for s in (0, 1) for c in ("rl", "more sft")
    ]
    found = by_cell(runs)
    assert [run.tokens > 0 for run in found["rl"]] == [True, True] and [
        run.tokens for run in found["more sft"]
    ] == [0, 0]
    assert all(set(run.accuracy) == {"before", "after"} and 0 <= run.waste <= 1 for run in runs)
    before = [run.evals["before"] for run in runs]
    assert (
        before[0] == before[1]
        and before[2] == before[3]
        and before[0]["accuracy"] != before[2]["accuracy"]
    )
    assert read_rows(tmp_path / "study/start-1/metrics.jsonl")[-1]["stage"] == "sft"
    assert (
        found["more sft"][1].rows[-1]["stage"] == "rl"
        and found["more sft"][1].folder.name == "moresft-1"
    )


def test_the_command_of_a_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["reproduce.py", *words, "--folder", str(tmp_path / "it")])
        measures = {
            "after": lambda run: run.accuracy["after"],
            "steps": lambda run: float(run.steps),
        }
        study_main(
            "A study.", write_recipe(tmp_path), {"rl": ()}, measures, quick=["stages.rl.steps=1"]
        )
        return capsys.readouterr().out

    said = json.loads(command("--quick", "--json"))
    assert said["cells"]["rl"]["steps"] == [1.0] and 0 <= said["cells"]["rl"]["after"][0] <= 1
    assert "1.000 ± 0.000" in command("--quick")
