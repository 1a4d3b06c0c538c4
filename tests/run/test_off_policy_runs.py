"""Whole runs off-policy: several updates a batch, batches that are generated ahead, kills in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.run.whole import finish, kill_when, run_folder, start, story, untimed, write_recipe

# All groups count, those of equal rewards too, so that every step makes all of its updates.
BATCH = ("stages.rl.groups_per_step=8", "stages.rl.credit.zero_variance=keep")
UPDATES = ("stages.rl.minibatches=4", "stages.rl.update_epochs=2", "stages.rl.optim.lr=3e-3")
SHORT = (
    "stages.sft.steps=2",
    "stages.before.limit=1",
    "stages.after.limit=1",
    "run.checkpoint_every=1",
)
FILTER = ("stages.rl.filter={use: pass_rate, low: 0.2}", "stages.rl.resample.max_gen_batches=3")
TRAINER = (
    "stages.rl.old_logprobs=trainer",
    "stages.rl.objective.correction={kind: token_truncate, high: 2.0}",
)


def rl(folder: Path) -> list[dict]:
    return [row for row in untimed(read_rows(folder / "metrics.jsonl")) if row["stage"] == "rl"]


def settings(staleness: int, *more: str) -> tuple[str, ...]:
    return (*SHORT, *BATCH, *UPDATES, f"stages.rl.max_staleness={staleness}", *more)


@pytest.mark.parametrize(
    ("staleness", "filtered", "processes"),
    [
        *((staleness, filtered, 1) for staleness in (0, 1, 2) for filtered in (False, True)),
        (1, False, 2),
    ],
)
def test_kill_and_resume_are_exact(
    staleness: int, filtered: bool, processes: int, tmp_path: Path
) -> None:
    """Minibatches 4, update epochs 2: a killed run leaves what an uninterrupted one leaves, bit for bit."""
    options = settings(staleness, *(FILTER if filtered else ()))
    (tmp_path / "whole").mkdir()
    reference = write_recipe(tmp_path / "whole")
    finish(start("train", reference, *options, processes=processes))
    uninterrupted = story(run_folder(reference))

    recipe = write_recipe(tmp_path)
    process = start("train", recipe, *options, processes=processes)
    kill_when(process, lambda: len(rl(run_folder(recipe))) >= 3)
    finish(start("train", recipe, *options, "--resume", processes=processes))
    for part, left in story(run_folder(recipe)).items():
        assert left == uninterrupted[part], f"{part} differ after kill and resume"

    rows = rl(run_folder(recipe))
    if filtered:
        assert any(row["filter/tried_per_group"] > 1 for row in rows), "nothing was resampled"
    for step, row in enumerate(rows):
        if "staleness/max" in row:  # a filter may leave nothing to train on
            assert row["staleness/max"] == row["staleness/mean"] <= min(step, staleness)
    assert any(row.get("staleness/max") == staleness for row in rows)
    updates = [row.get("updates", 0) for row in rows]
    assert max(updates) == 8 or (filtered and max(updates) > 2)


def test_both_denominators_train_and_differ(tmp_path: Path) -> None:
    weights = {}
    for name, more in {"engine": (), "trainer": TRAINER}.items():
        (tmp_path / name).mkdir()
        recipe = write_recipe(tmp_path / name)
        finish(start("train", recipe, *settings(1, *more)))
        rows = rl(run_folder(recipe))
        assert all(abs(row["mismatch/ratio_max"] - 1) > 1e-4 for row in rows)
        weights[name] = story(run_folder(recipe))["weights"]
    assert weights["engine"] != weights["trainer"]


def test_stale_tokens_without_a_correction_are_refused(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    process = start("train", recipe, "stages.rl.old_logprobs=trainer", "stages.rl.max_staleness=1")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 2 and "the objective needs a correction" in err


def test_two_processes_make_the_same_off_policy_updates(tmp_path: Path) -> None:
    """Requests and draws do not depend on the number of processes; rewards agree as far as rounding lets them."""
    curves = []
    for processes in (1, 2):
        (tmp_path / str(processes)).mkdir()
        recipe = write_recipe(tmp_path / str(processes))
        finish(start("train", recipe, *settings(1), processes=processes))
        rows = rl(run_folder(recipe))
        curves.append(
            [(row["reward/mean"], row.get("updates"), row["tokens/trained"]) for row in rows]
        )
    assert curves[0][0] == curves[1][0]
    assert [updates for _, updates, _ in curves[0]] == [updates for _, updates, _ in curves[1]]


def test_a_schedule_ends_with_the_last_update(tmp_path: Path) -> None:
    """Of all updates of all steps, not after as many updates as there are steps."""
    recipe = write_recipe(tmp_path)
    linear = "stages.rl.optim={lr: 1e-3, schedule: linear}"
    finish(start("train", recipe, *SHORT, *BATCH, *UPDATES[:2], linear))
    rates = [row["lr"] for row in rl(run_folder(recipe))]
    # the rate of a step is that of its last update, of 8
    assert rates == pytest.approx([1e-3 * (1 - (8 * step + 7) / 48) for step in range(6)])
