"""DataEnvGym in miniature: orders are exact, held-out problems stay held out, and a study goes on where it stopped."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rlcore.analysis.study_results import StudyResults
from rlcore.errors import TaskError
from rlcore.plugin import import_file
from rlcore.run.folder import RunFolder, read_rows

PAPER = Path(__file__).resolve().parent.parent / "recipes/papers/dataenvgym"
skills = import_file(PAPER / "skills.py")
teacher = import_file(PAPER / "teacher.py")
reproduce = import_file(PAPER / "reproduce.py")


@pytest.mark.parametrize("name", teacher.TEACHERS)
def test_an_order_is_exactly_the_budget(name: str) -> None:
    rng = random.Random(name)
    for _ in range(200):
        accuracy = {skill: rng.choice([0.0, 1.0, rng.random()]) for skill in skills.SKILLS}
        budget = rng.randint(1, 500)
        order = teacher.TEACHERS[name](accuracy, budget)
        assert sum(order.values()) == budget and min(order.values()) >= 0


def test_a_mastered_skill_receives_less() -> None:
    before = dict.fromkeys(skills.SKILLS, 0.5)
    after = {**before, "sort": 1.0}
    for name in ("errors", "middling"):
        order = teacher.TEACHERS[name]
        assert order(after, 400)["sort"] < order(before, 400)["sort"]
        assert order(after, 400)["add"] > order(before, 400)["add"]
    assert set(teacher.no_feedback(after, 400).values()) == {50}
    assert teacher.errors(after, 400)["sort"] == 0


def test_no_order_brings_a_held_out_problem_into_the_training_data() -> None:
    """Both sorts of prompt are compared as texts, of many orders with other seeds."""
    prompts = {"validation": set(), "test": set()}
    for split in prompts:
        for seed in range(3):
            prompts[split] |= {
                task.prompt for task in skills.equally(200, split=split, seed=seed)
            }
    assert not prompts["validation"] & prompts["test"]
    for seed in range(5):
        ordered = skills.equally(400, split="train", seed=seed)
        trained = {task.prompt for task in ordered}
        assert not trained & (prompts["validation"] | prompts["test"])


def test_a_larger_order_only_adds_data() -> None:
    small = {task.id: task for task in skills.problems({"add": 5}, split="train", seed=1)}
    large = skills.problems({"add": 9, "sort": 2}, split="train", seed=1)
    same = {task.id: task for task in large if task.id in small}
    assert same == small
    with pytest.raises(TaskError, match="there is no skill 'adds'"):
        skills.problems({"adds": 1}, split="train", seed=0)


@pytest.mark.slow
def test_the_loop_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first round of two, and started again: as if it had not been stopped."""
    size = {"seeds": [0], "rounds": 2, "budget": 24, "common": reproduce.QUICK}
    monkeypatch.setattr(reproduce, "TEACHERS", {"errors": teacher.errors})
    whole = reproduce.study(tmp_path / "whole", **size)

    trained = []
    one_round = reproduce.one_round

    def stop_after_one(*arguments):
        if trained:
            raise KeyboardInterrupt
        trained.append(arguments[1])
        return one_round(*arguments)

    monkeypatch.setattr(reproduce, "one_round", stop_after_one)
    with pytest.raises(KeyboardInterrupt):
        reproduce.study(tmp_path / "parts", **size)
    monkeypatch.setattr(reproduce, "one_round", one_round)
    again = reproduce.study(tmp_path / "parts", **size)
    assert again.summary("errors", "accuracy") == whole.summary("errors", "accuracy")
    orders = []
    for folder in ("whole", "parts"):
        rows = read_rows(RunFolder(tmp_path / folder / "errors-0-2").evals)
        orders.append([row["accuracy"] for row in rows])
    assert orders[0] == orders[1]


def test_the_table_of_the_readme_is_that_of_the_results() -> None:
    results = StudyResults.read(PAPER / "results.json")
    table = reproduce.table(results).partition("\n\n")[0]
    assert table in (PAPER / "README.md").read_text()
