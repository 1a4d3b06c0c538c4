"""A run sharded over two processes leaves what a run in one process does, and goes on in either."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.run.whole import finish, run_folder, start, untimed


@pytest.mark.parametrize(
    ("optim", "resumed"), [("{lr: 1e-3, ema: 0.9}", "sharded"), ("{lr: 1e-3, name: muon}", "whole")]
)
def test_a_sharded_run_resumes_and_trains_as_a_whole_one(
    tiny: Path, optim: str, resumed: str
) -> None:
    sharded = {"script": Path(__file__).with_name("sharded.py"), "processes": 2}
    overrides = (f"stages.rl.optim={optim}", "run.checkpoint_every=1")
    finish(start("train", tiny, *overrides, "name=alone"))
    finish(start("train", tiny, *overrides, "stages.rl.steps=3", **sharded))
    finish(
        start("train", tiny, *overrides, "--resume", **(sharded if resumed == "sharded" else {}))
    )
    alone, parts = (
        untimed(read_rows(run_folder(tiny).parent / name / "metrics.jsonl"))
        for name in ("alone", "tiny")
    )
    assert [row["step"] for row in parts] == [row["step"] for row in alone]
    for one, two in zip(alone, parts, strict=True):
        for key in ("loss", "grad_norm", "tokens/trained"):
            assert two[key] == pytest.approx(one[key], rel=2e-3, abs=1e-5), (one["step"], key)
