"""Tülu 3's recipe: its problems, its rewards (10, 0, -10), and its cells as recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlcore import Task
from rlcore.errors import TaskError
from rlcore.plugin import import_file
from rlcore.recipe.build import TaskSets, build_rewards, build_rule
from rlcore.recipe.load import load
from rlcore.scoring.scorer import Scorer
from tests.short_rollouts import short_rollout

FOLDER = Path(__file__).parents[1] / "recipes/papers/tulu3"
words = import_file(FOLDER / "words.py")
reproduce = import_file(FOLDER / "reproduce.py")

ROWS = (
    ("1", "Dan had 4 dollars", "What is left of them after 3?", "( 4.0 - 3.0 )", 1.0, "Subtraction"),
    ("2", "5 bags of 7 apples.", "How many apples?", "( 5.0 * 7.0 )", 35.0, "Multiplication"),
    ("3", "Two steps.", "How many?", "( ( 1.0 + 2.0 ) * 3.0 )", 9.0, "Multiplication"),
    *((f"n{i}", f"{i} and 2 birds.", "How many?", f"( {i}.0 + 2.0 )", i + 2.0, "Addition") for i in range(40)),
)
COLUMNS = ("ID", "Body", "Question", "Equation", "Answer", "Type")


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "svamp.jsonl"
    path.write_text("\n".join(json.dumps(dict(zip(COLUMNS, row, strict=True))) for row in ROWS))
    return str(path)


def test_solutions_of_equations() -> None:
    assert words.solution("( 76.0 - 25.0 )") == "76 - 25 = 51. The answer is 51."
    assert words.solution("( 7.0 / 2.0 )") == "7 / 2 = 3.5. The answer is 3.5."


def test_one_step_problems_in_two_splits(data: str) -> None:
    train, held = (words.words(data, split=split) for split in ("train", "heldout"))
    ids = {task.id for task in train} | {task.id for task in held}
    assert len(train) + len(held) == len(ids) == 42
    assert "3" not in ids
    assert len(held) > 0
    by_id = {task.id: task for task in [*train, *held]}
    assert by_id["1"].prompt == "Dan had 4 dollars. What is left of them after 3?"
    assert (by_id["2"].answer, by_id["2"].category) == ("35", "Multiplication")
    for task in by_id.values():
        assert task.demonstration.endswith(f" = {task.answer}. The answer is {task.answer}.")
    assert [t.id for t in words.words(data, split="train", limit=3)] == [t.id for t in train][:3]


def test_data_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="there are no word problems at"):
        words.words(str(tmp_path / "none.jsonl"), split="train")


def recipe(data: str, *overrides: str):
    paths = [f"tasks.{name}.path={data}" for name in ("words", "some_words", "words_heldout")]
    return load(str(FOLDER / "tulu3.yaml"), [*paths, *overrides])


def test_the_cells_are_recipes(data: str) -> None:
    """SFT; + DPO; + DPO + RLVR; RLVR twice are points of the first cell."""
    stages = {
        cell: [stage.label for stage in recipe(data, *overrides).stages]
        for cell, overrides in reproduce.CELLS.items()
    }
    assert stages["SFT, DPO, RLVR twice"] == [
        "before", "written", "sft", "after_sft", "drawn", "dpo", "after_dpo", "rlvr", "after_rlvr", "rlvr_words", "after_second",
    ]  # fmt: skip
    assert stages["SFT, RLVR"] == ["before", "written", "sft", "after_sft", "rlvr", "after_rlvr"]
    weights = [
        next(stage for stage in recipe(data, *overrides).stages if stage.label == "rlvr")
        for overrides in reproduce.CELLS.values()
    ]
    assert sorted(stage.objective["kl"] for stage in weights) == [0.01, 0.05, 0.05, 0.05, 0.2]


def test_right_is_10_wrong_0_and_unfinished_minus_10_for_both_skills(data: str) -> None:
    loaded = recipe(data)
    (stage,) = (stage for stage in loaded.stages if stage.label == "rlvr")
    both = TaskSets(loaded.tasks)["both"]
    problem = next(task for task in both if task.columns["set"] == "words")
    constraint = Task(
        id="c",
        prompt="",
        columns={
            "set": "constraints",
            "instruction_id_list": ["change_case:english_lowercase"],
            "kwargs": [{}],
        },
    )
    right = {problem.id: problem.demonstration, "c": "all in small letters of english here"}
    wrong = {problem.id: "The answer is 12345.", "c": "Not In Small Letters"}

    rewards = build_rewards(stage.rewards)
    with Scorer(rewards, workers=1, rule=build_rule(stage)) as scorer:
        for task in (problem, constraint):
            rollouts = [
                short_rollout(right[task.id], "stop"),
                short_rollout(wrong[task.id], "stop"),
                short_rollout(right[task.id], "length"),
            ]
            (verdicts,) = scorer.score([(task, rollouts)])
            assert [verdict.value for verdict in verdicts] == [10.0, 0.0, -10.0]
            assert [verdict.passed() for verdict in verdicts[:2]] == [True, False]
