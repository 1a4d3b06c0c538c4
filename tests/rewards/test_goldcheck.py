from __future__ import annotations

import json
import random
from fractions import Fraction

import pytest

from rewards.math_spelling import plain_number
from rewards.math_value import same_value
from rlcore import RewardSpec, Task
from rlcore.scoring.goldcheck import check_reference_answers, corrupt, write_answer
from rlcore.scoring.kit import FAULTS, Case, try_reward
from rlcore.tasks.arithmetic import arithmetic
from rlcore.tasks.dataset import dataset

MATH = [RewardSpec("rewards.math:math_answer")]


@pytest.fixture
def word_problems(tmp_path):
    """A small file laid out like GSM8K."""
    rows = [
        {
            "question": f"Ann has {n} pens and buys {m}. How many now?",
            "answer": f"{n}+{m} = <<{n}+{m}={n + m}>>{n + m}.\n#### {n + m}",
        }
        for n in range(980, 1000)
        for m in (7, 21)
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


@pytest.mark.parametrize(
    "settings",
    [
        {"columns": {"prompt": "question"}},
        {"columns": {"prompt": "question"}, "answer_after": "####"},
        {"columns": {"prompt": "question", "demonstration": "answer"}, "answer_after": "####"},
    ],
)
def test_reference_answers_pass_and_corrupted_ones_do_not(word_problems, settings):
    report = check_reference_answers(dataset(word_problems, **settings), MATH)
    assert (report.checked, report.reference_rate, report.corrupted_rate, report.exceptions) == (
        40,
        1.0,
        0.0,
        [],
    )


def test_a_reward_that_disagrees_with_the_data_is_found(plugin):
    tasks = arithmetic(size=50)
    lenient = RewardSpec(
        plugin("def always(completions): return [1.0] * len(completions)") + ":always"
    )
    report = check_reference_answers(tasks, [lenient])
    assert report.corrupted_rate == 1.0 and {found.kind for found in report.exceptions} == {
        "corrupted"
    }
    report = check_reference_answers(
        tasks, [RewardSpec("rewards.text:exact", params={"after": "####"})], n=20
    )
    assert report.reference_rate == 0.0 and report.checked == 20
    assert report.exceptions[0].verdict.status == "wrong-format"
    assert report.exceptions[0].scored in {task.demonstration for task in tasks}


def test_demonstrations_of_a_weak_teacher_are_counted_and_repaired():
    tasks = arithmetic(size=300, mistakes=0.6)
    report = check_reference_answers(
        tasks, [RewardSpec("rewards.text:exact", params={"after": "="})], n=300
    )
    assert (report.reference_rate, report.corrupted_rate) == (1.0, 0.0)
    assert (
        report.wrong_demonstrations
        == sum(not task.demonstration.endswith(f"={task.answer}") for task in tasks)
        > 100
    )


def test_tasks_without_a_checkable_answer_are_counted_not_scored():
    tasks = [
        Task(id=str(n), prompt="write a poem", answer=None if n % 2 else {"tests": []})
        for n in range(4)
    ]
    report = check_reference_answers(tasks, MATH)
    assert (
        report.checked,
        report.reference_rate,
        report.corrupted_rate,
        report.without_answer,
    ) == (
        0,
        None,
        None,
        4,
    )


@pytest.mark.parametrize(
    "answer", ["3", "3.0", "-2", "1,234", "0", "\\frac{14}{3}", "$5.00", "x = 7", "12%", "0.05"]
)
def test_corrupted_numbers_differ_in_value(answer):
    for seed in range(50):
        other = corrupt(answer, [answer], random.Random(seed))
        assert not same_value(answer, other), (answer, other)
    assert plain_number("3.0") == plain_number("3") == Fraction(3)  # the mistake this test is about


def test_corrupted_text_is_another_answer():
    assert corrupt("Paris", ["Paris", "paris ", "Rome"], random.Random(0)) == "Rome"
    assert corrupt("yes", ["yes", "Yes"], random.Random(0)) == "yesx"


@pytest.mark.parametrize(
    ("demonstration", "answer", "value", "written"),
    [
        (None, "26", "27", "27"),
        ("7+15=22;22+4=26", "26", "29", "7+15=22;22+4=29"),
        ("so x = -5.", "-5", "-2", "so x = -2."),
        ("26 pens.\n#### 26", "26", "29", "26 pens.\n#### 29"),
        (
            "It is Rome, so <answer>Rome</answer>",
            "Rome",
            "Oslo",
            "It is Rome, so <answer>Oslo</answer>",
        ),
        ("no answer here", "Rome", "Oslo", "Oslo"),
    ],
)
def test_answers_are_written_like_the_demonstration(demonstration, answer, value, written):
    assert (
        write_answer(Task(id="t", prompt="p", answer=answer, demonstration=demonstration), value)
        == written
    )


def test_try_reward_runs_cases_and_faults(plugin):
    cases = [
        Case(completion="#### 4", answer="4", expected=1.0),
        Case(completion="#### 5", answer="4", expected=1.0, name="planted"),
    ]
    trials = {trial.name: trial for trial in try_reward("rewards.math:math_answer", cases)}
    assert (
        trials["case 0"].right is True
        and trials["planted"].right is False
        and len(trials) == 2 + len(FAULTS)
    )
    assert trials["fault: empty"].verdict.value == 0.0 and trials[
        "fault: tower of powers"
    ].verdict.status in ("ok", "timed-out")

    fragile = plugin(
        "def f(completions):\n    while len(completions[0]) > 999_999: pass\n    return [1 / len(completions[0])]"
    )
    trials = {trial.name: trial for trial in try_reward(f"{fragile}:f", [], deadline_s=0.5)}
    assert (
        trials["fault: empty"].verdict.status == "crashed"
        and "ZeroDivisionError" in trials["fault: empty"].verdict.reason
    )
    assert (
        trials["fault: 1 MB"].verdict.status == "timed-out" and trials["fault: 1 MB"].seconds > 0.5
    )
