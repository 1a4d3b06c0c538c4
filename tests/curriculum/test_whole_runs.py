"""Filter, bandit and budget in whole runs: resume stays exact, and two processes keep one curriculum."""

from __future__ import annotations

import signal
import time
import xml.dom.minidom
from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.run.whole import finish, run_folder, start, story, untimed, write_recipe

TOKENS = 1900
SETTINGS = (
    "stages.before.limit=1", "stages.after.limit=1", "tasks.demonstrations.terms=[2,3]", "tasks.demonstrations.size=200",
    "stages.rl.curriculum={use: sec, temperature: 0.2, alpha: 0.3}", "stages.rl.filter={use: pass_rate, low: 0.5}",
    "stages.rl.resample={max_gen_batches: 3, oversubmit: 1.5}", "stages.rl.prefilter=greso",
    "stages.rl.budget={use: exponential, start: 8, factor: 0.7, every: 2}",
    "stages.rl.budget_text='{prompt}'", "run.checkpoint_every=1", "engine.max_length=56",
    "stages.rl.steps=30", f"stages.rl.stop_after_tokens={TOKENS}",
)  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict:
    recipe = write_recipe(tmp_path_factory.mktemp("gated"))
    finish(start("train", recipe, *SETTINGS, cold=True))
    return {**story(run_folder(recipe)), "folder": run_folder(recipe)}


def rl(folder: Path) -> list[dict]:
    return [row for row in untimed(read_rows(folder / "metrics.jsonl")) if row["stage"] == "rl"]


def test_the_metrics_say_what_gate_budget_and_curriculum_did(whole: dict) -> None:
    rows = rl(whole["folder"])
    assert [row["budget"] for row in rows] == [8, 8, 5, 5, 3, 3, 2, 2, 1, 1][: len(rows)]
    written_tokens = [row["tokens/completion"] for row in rows]
    assert sum(written_tokens[:-1]) < TOKENS <= sum(written_tokens) and 3 < len(rows) < 30
    assert any(row["filter/tried_per_group"] > 1 for row in rows), (
        "nothing was resampled: the test is empty"
    )
    for row in rows:
        assert (
            0 <= row["tokens/frac_wasted"] <= 1
            and 0 <= row["filter/frac_filled"] <= 1
            and row["filter/tried_per_group"] <= 3
        )
        assert sum(
            row.get(f"curriculum/{category}/frac", 0.0) for category in ("2-terms", "3-terms")
        ) == pytest.approx(1)
        assert row["tokens/trained"] <= row["tokens/completion"]
    written = [read_rows(whole["folder"] / "rollouts" / f"{row['step']:06d}.jsonl") for row in rows]
    assert {answer["accepted"] for answers in written for answer in answers} == {True, False}
    assert [len(answers) for answers in written] == [
        16 * row["filter/tried_per_group"] for row in rows
    ]
    assert [sum(answer["accepted"] for answer in answers) for answers in written] == [
        16 * row["filter/frac_filled"] for row in rows
    ]


def test_the_run_has_a_picture_of_its_categories(whole: dict) -> None:
    picture = xml.dom.minidom.parse(str(whole["folder"] / "curriculum.svg"))
    assert (
        len(picture.getElementsByTagName("polyline")) == 3 * 2
    )  # share, pass rate and value of two categories


def test_a_killed_run_with_a_gate_resumes_bit_for_bit(whole: dict, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    process = start("train", recipe, *SETTINGS)
    deadline = time.monotonic() + 120
    while len(read_rows(run_folder(recipe) / "metrics.jsonl")) < 8:  # in the second rl step
        assert time.monotonic() < deadline and process.poll() is None, (
            "the run ended before it could be killed"
        )
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finish(start("train", recipe, *SETTINGS, "--resume"))
    for part, left in story(run_folder(recipe)).items():
        assert left == whole[part], f"{part} differ after kill and resume"


def test_two_processes_share_one_curriculum(whole: dict, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    assert "2 process(es)" in finish(start("train", recipe, *SETTINGS, processes=2))
    folder = run_folder(recipe)
    for row in rl(folder):
        ranks = [
            read_rows(folder / "rollouts" / f"{row['step']:06d}{suffix}.jsonl")
            for suffix in ("", ".rank1")
        ]
        seen = [[r["index"] for r in rank if r["id"].endswith(".0")] for rank in ranks]
        assert not set(seen[0]) & set(seen[1]), (
            "both ranks wrote the same task: their curricula differ"
        )
        assert sum(r["accepted"] for rank in ranks for r in rank) == 16 * row["filter/frac_filled"]
    assert any(
        row["filter/tried_per_group"] > 1 and row["filter/frac_filled"] > 0 for row in rl(folder)
    ), "nothing was resampled: the test is empty"
