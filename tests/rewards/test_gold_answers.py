"""On public data sets the reference answer earns 1 and a changed one 0; prints every exception.

python -m pytest tests/rewards/test_gold_answers.py -s
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from rewards.math_final import boxed, reference_text
from rlcore import RewardSpec, Task
from rlcore.scoring.goldcheck import check_reference_answers

MATH = [RewardSpec("rewards.math:math_answer")]
SETS = {
    "gsm8k_test.first_half": ("question", "answer"),
    "math_test.first_half": ("problem", "solution"),
    "math500.part_a": ("problem", "answer"),
    "svamp.first_half": ("Question", "Answer"),
    "aime24": ("problem", "answer"),
    "amc23.first_half": ("problem", "answer"),
}


def shared_data() -> Path | None:
    """The public data beside the repository, or where RLCORE_DATA says."""
    places = [
        os.environ.get("RLCORE_DATA", ""),
        Path(__file__).resolve().parents[2].parent / "shared" / "data",
    ]
    return next((Path(place) for place in places if place and Path(place).is_dir()), None)


needs_data = pytest.mark.skipif(
    shared_data() is None,
    reason="the public data sets are not beside the repository (or set RLCORE_DATA)",
)


def written(number: int, answer: str) -> str:
    """An answer in one of the ways models write it, in turn."""
    ways = (
        "{}",
        "So we get \\boxed{{{}}}.",
        "Two steps.\n#### {}",
        "The final answer is ${}$.",
        "As \\(x = y\\) we conclude that \\[{}\\]",
    )
    return ways[number % len(ways)].format(answer)


def respelled(answer: str) -> str:
    """The same LaTeX as another author spells it."""
    answer = (
        re.sub(r"\\left|\\right", "", answer)
        .replace("\\frac", "\\dfrac")
        .replace("\\mbox", "\\text")
    )
    answer = re.sub(r"(?<=[\w)}])([+=])(?=[\w(\\])", r" \1 ", answer)
    return answer.replace("(", "\\left(").replace(")", "\\right)")


def tasks(name: str, spell=str) -> list[Task]:
    """The rows as tasks whose demonstration writes out the answer, so that the check scores it in its last place."""
    prompt_column, answer_column = SETS[name]
    made = []
    with open(shared_data() / f"{name}.jsonl", encoding="utf-8") as file:
        for number, line in enumerate(file):
            row = json.loads(line)
            answer = reference_text(str(row[answer_column]))
            shown = written(number, spell(answer))
            made.append(
                Task(
                    id=f"{name}/{number}",
                    prompt=row[prompt_column],
                    answer=answer,
                    demonstration=shown,
                )
            )
    return made


@needs_data
@pytest.mark.parametrize("name", SETS)
def test_reference_answers_pass_and_changed_ones_do_not(name):
    found = tasks(name)
    report = check_reference_answers(found, MATH, n=len(found))
    for e in report.exceptions:
        print(
            f"{e.kind} {e.id}: answer {e.answer!r} scored {e.verdict.value} ({e.verdict.status} {e.verdict.reason}): {e.scored!r}"
        )
    print(
        f"{name}: {report.checked} checked, reference {report.reference_rate:.2%}, changed {report.corrupted_rate:.2%}"
    )
    assert report.checked == len(found) >= 20
    assert report.reference_rate >= 0.995 and report.corrupted_rate <= 0.005


@needs_data
def test_an_answer_in_another_spelling_scores():
    from rewards.math import math_answer

    answers = [task.answer for task in tasks("math500.part_a")]
    values = [math_answer(f"\\boxed{{{respelled(answer)}}}", answer) for answer in answers]
    wrong = [
        (answer, respelled(answer))
        for answer, value in zip(answers, values, strict=True)
        if value != 1.0
    ]
    changed = sum(respelled(answer) != answer for answer in answers)
    assert len(wrong) <= 0.005 * len(answers) and changed > 50, wrong


@needs_data
def test_whole_solutions_are_read_as_their_last_box():
    with open(shared_data() / "math500.part_a.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    assert sum(boxed(row["solution"]) == row["answer"] for row in rows) >= len(rows) - 1


def test_a_lenient_reward_would_be_caught(tmp_path):
    (tmp_path / "lenient.py").write_text("def always(completions): return [1.0] * len(completions)")
    made = [Task(id=str(n), prompt="p", answer=str(n)) for n in range(20)]
    report = check_reference_answers(made, [RewardSpec(f"{tmp_path}/lenient.py:always")])
    assert report.corrupted_rate == 1.0 and len(report.exceptions) == 20
