"""The short recipes of the methods, as they are printed: each improves what it says it improves."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.run.folder import read_rows
from tests.run.whole import finish, start

RECIPES = Path(__file__).parents[2] / "recipes"


def evaluations(folder: Path, recipe: str) -> dict[str, dict[str, float]]:
    """Run a recipe; the row of each of its eval stages by name."""
    path = RECIPES / f"{recipe}.yaml"
    finish(start("train", path, f"run.folder={folder}", "name=it"), timeout_s=900)
    return {row["stage"]: row for row in read_rows(folder / "it/eval.jsonl")}


@pytest.mark.slow
def test_self_sampled_solutions_add_answers_that_no_demonstration_has(tmp_path: Path) -> None:
    """More right at one attempt, and at 16 by more than twelve points: not one answer instead of another."""
    rows = evaluations(tmp_path, "methods/solutions")
    assert rows["after"]["accuracy"] > rows["before"]["accuracy"] + 0.1
    assert rows["after"]["pass@16"] > rows["before"]["pass@16"] + 0.12


@pytest.mark.slow
def test_sharpening_raises_an_accuracy_that_is_the_likeliest_answer(tmp_path: Path) -> None:
    rows = evaluations(tmp_path, "methods/sharpening")
    first, second, third = (rows[name]["accuracy"] for name in ("before", "after_1", "after_2"))
    assert first + 0.06 < second < third


@pytest.mark.slow
def test_distillation_takes_over_what_a_hint_gives(tmp_path: Path) -> None:
    rows = evaluations(tmp_path, "methods/opd")
    assert rows["teacher"]["accuracy"] > 0.9
    assert rows["after"]["accuracy"] > rows["before"]["accuracy"] + 0.4


@pytest.mark.slow
def test_ppo_learns_with_one_completion_a_task(tmp_path: Path) -> None:
    rows = evaluations(tmp_path, "methods/ppo")
    assert rows["after"]["accuracy"] > rows["before"]["accuracy"] + 0.4
