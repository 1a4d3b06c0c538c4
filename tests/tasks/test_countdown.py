from __future__ import annotations

import random
import time
from fractions import Fraction
from itertools import permutations, product

import pytest

from rewards.countdown import countdown as score
from rlcore import Verdict
from rlcore.curriculum.categories import Categories
from rlcore.errors import TaskError
from rlcore.tasks.countdown import countdown, is_held_out


def value(given: object) -> float:
    return given.value if isinstance(given, Verdict) else given


def solvable(numbers: list[int], target: int) -> bool:
    """By brute force over all orders, operators and, for three numbers, both shapes."""
    for order in permutations(map(Fraction, numbers)):
        for ops in product("+-*/", repeat=2):
            for left_first in (True, False):
                try:
                    a, b, c = order
                    made = (
                        _do(_do(a, ops[0], b), ops[1], c)
                        if left_first
                        else _do(a, ops[0], _do(b, ops[1], c))
                    )
                except ZeroDivisionError:
                    continue
                if made == target:
                    return True
    return False


def _do(a: Fraction, operator: str, b: Fraction) -> Fraction:
    return {"+": a + b, "-": a - b, "*": a * b}[operator] if operator != "/" else a / b


def test_the_worked_answer_solves_every_problem() -> None:
    for split in ("train", "heldout"):
        for task in countdown(split=split, size=300, numbers=[2, 3, 4, 5, 6])[:]:
            numbers, target = task.columns["numbers"], task.columns["target"]
            assert score(task.demonstration, numbers=numbers, target=target) == 1.0
            assert value(score(task.demonstration, numbers=numbers, target=target + 1)) == 0.0
            assert is_held_out(numbers[::-1], target) == (split == "heldout")
            assert task.category == f"{len(numbers)}-numbers" and task.columns["level"] == len(
                numbers
            )
            assert 1 <= target <= 100 and max(numbers) <= 20
    assert (
        countdown(size=5, seed=1)[3]
        == countdown(size=9, seed=1)[3]
        != countdown(size=9, seed=2)[3]
    )


def test_the_verifier_agrees_with_brute_force() -> None:
    """Random expressions over three numbers: what the verifier takes for a solution is one, by Python's own arithmetic."""
    rng, right = random.Random(0), 0
    for _ in range(3000):
        numbers = [rng.randint(1, 6) for _ in range(3)]
        order = rng.sample(numbers, 3)
        text = f"({order[0]}{rng.choice('+-*/')}{order[1]}){rng.choice('+-*/')}{order[2]}"
        target = rng.randint(1, 20)
        expected = eval(text) == target
        assert value(score(text, numbers=numbers, target=target)) == expected
        right += expected
        if expected:
            assert solvable(numbers, target)
    assert right > 50


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("8-5=3;3*3=9", 1.0), ("<answer>(8 - 5) * 3</answer>", 1.0), ("(8-5)×3", 1.0), ("3*(8-5)", 1.0),
        ("8-5=3;3*3=8", 0.0), ("8-5=3", 0.0), ("3*3=9", 0.0), ("9", 0.0), ("8-5=2;2*3=9", 0.0), ("5+8-3-1", 0.0),
    ],
)  # fmt: skip
def test_answers_by_hand(answer: str, expected: float) -> None:
    assert value(score(answer, numbers=[3, 5, 8], target=9)) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "9=9",
        "nine",
        "8-5=3;",
        "8**2",
        "__import__('os')",
        "3.0*3",
        "-8",
        "(" * 300,
        "True+8",
        "8-5=3;3*3=9;",
        "8//3",
    ],
)
def test_what_is_no_answer_is_wrong_format_and_nothing_runs(answer: str) -> None:
    verdict = score(answer, numbers=[3, 5, 8], target=9)
    assert (
        isinstance(verdict, Verdict)
        and verdict.status == "wrong-format"
        and verdict.value == 0.0
    )


def test_rules_that_can_be_changed() -> None:
    assert score("3*3", numbers=[3, 3, 5], target=9, use_all=False) == 1.0
    assert score("5/0", numbers=[5, 0], target=1) == 0.0
    assert score("8-5=3;3*3=9", numbers=[3, 5, 8], target=9, finished=False).value == 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"numbers": [1]}, "numbers from 2 to 50"), ({"operators": "+%"}, "operators among"), ({"split": "test"}, "no split 'test'"),
     ({"max_number": 1, "max_target": 1, "operators": "+"}, "allow larger targets")],
)  # fmt: skip
def test_bad_settings_are_met_with_a_sentence(settings: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        countdown(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"size": 2_000_001, "numbers": [2]}, "up to 1,000,000 tasks with 2 numbers each"),
     ({"size": 50_000, "numbers": [3, 50]}, "up to 40,000 tasks with 50 numbers each")],
)  # fmt: skip
def test_sets_that_take_minutes_to_make_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        countdown(**settings)


def test_categories_are_known_without_the_problems() -> None:
    """Some task samplers ask for all of them: a search for each problem would take minutes."""
    settings = {"numbers": (3, 30), "operators": "+-", "max_number": 9, "max_target": 30}
    tasks = countdown(size=200, split="heldout", **settings)
    assert tasks.column("category") == [task.category for task in tasks]
    assert tasks.column("level") == [task.columns["level"] for task in tasks]
    assert tasks.column("target") is None
    many = countdown(size=20_000, **settings)
    began = time.process_time()
    assert Categories(many, seed=0).names == ["3-numbers", "30-numbers"]
    assert time.process_time() - began < 2


def test_lessons_with_mistakes_join_all_numbers_and_miss_the_target() -> None:
    def rate(mistakes: float) -> float:
        tasks = countdown(size=400, numbers=[3, 4], mistakes=mistakes)[:]
        for task in tasks:
            assert len(task.demonstration.split(";")) == task.columns["level"] - 1
            made = int(task.demonstration.rpartition("=")[2])
            assert (
                score(task.demonstration, numbers=task.columns["numbers"], target=made) == 1.0
            )
            assert (
                score(
                    task.answer, numbers=task.columns["numbers"], target=task.columns["target"]
                )
                == 1.0
            )
        return (
            sum(
                value(
                    score(
                        t.demonstration,
                        numbers=t.columns["numbers"],
                        target=t.columns["target"],
                    )
                )
                for t in tasks
            )
            / 400
        )

    assert rate(0.0) == 1.0 and 0.45 < rate(0.5) < 0.65 and rate(1.0) < 0.2
    with pytest.raises(TaskError, match=r"mistakes is 1\.5, but must be from 0 to 1"):
        countdown(mistakes=1.5)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("(8-5)*3 = 9", True),
        ("(8-5)*3=9.", True),
        (r"$(8-5)\times 3$", True),
        (r"\((8 − 5) \cdot 3\)", True),
        ("<answer>(8-5)*3 = 9</answer>", True),
        ("(8-5)*3 = 10", False),
        ("8-5+3 = 9", False),
        ("0x8-5+0b11", False),
        ("(8-5)*3 = 9 = 9", False),
    ],
)
def test_spellings_of_an_expression_and_its_result(answer: str, right: bool) -> None:
    value = score(answer, numbers=[3, 5, 8], target=9)
    assert getattr(value, "value", value) == float(right)


def test_numbers_from_a_table_of_texts() -> None:
    assert score("(8-5)*3", numbers=["3", "5", "8"], target="9") == 1.0
    verdict = score("(8-5)*3", numbers=["three"], target=9)
    assert verdict.status == "unscorable" and "no whole numbers" in verdict.reason
