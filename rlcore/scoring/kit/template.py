"""A first reward file with everything that a reward should have: doc, example, cases, test."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rlcore.errors import RewardError

REWARD = '''"""The reward NAME. Try it:

    rlcore rewards test FILE --cases CASES
    rlcore rewards probe FILE

In a recipe:    rewards: [{use: FILE, ignore_case: false}]
"""

import json
from pathlib import Path

from rlcore import Verdict, reward


@reward
def NAME(
    completion: str, answer: str, *, ignore_case: bool = True, finished: bool = True, **columns
) -> float | Verdict:
    """1 if what follows the last "Answer:" is the reference answer, else 0.

    `completion` is the model's text, `answer` the task's reference answer, `columns` are the
    task's other columns. ignore_case: capital and small letters are the same. A completion without
    "Answer:" has the wrong format; one that was cut off before its end is 0.

    >>> NAME("The seat is Paris, not Lyon. Answer: paris", "Paris")
    1.0
    """
    _, mark, final = completion.rpartition("Answer:")
    if not mark:
        return Verdict(value=0.0, status="wrong-format", reason="there is no 'Answer:'")
    final, answer = final.strip().rstrip("."), answer.strip()
    if ignore_case:
        final, answer = final.casefold(), answer.casefold()
    return float(finished and final == answer)


def test_cases():
    """Run by    pytest FILE"""
    for line in Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        value = NAME(case["completion"], case["answer"])
        assert getattr(value, "value", value) == case["expected"], case
'''
COMPLETIONS = (
    ("It is on the Seine. Answer: Paris", 1.0),
    ("Answer: paris.", 1.0),
    ("Answer: Lyon", 0.0),
    ("Answer: Paris or Lyon", 0.0),
    ("Answer: Paris. No, wait. Answer: Lyon", 0.0),
    ("Paris", 0.0),
    ("Answer:", 0.0),
)
"""Completions to the reference answer "Paris", and their expected values."""


def write_template(path: Path) -> tuple[Path, Path]:
    """Write the reward file and its cases; the function gets the file's name.

    Raises `RewardError` if one of them exists.
    """
    if path.suffix != ".py" or not re.fullmatch(r"[a-z_][a-z0-9_]*", path.stem):
        raise RewardError(
            f"{path.name!r} cannot name a reward file: use small letters, digits and '_', then .py"
        )
    cases = path.with_suffix(".jsonl")
    for file in (path, cases):
        if file.exists():
            raise RewardError(f"{file} exists; give another name or remove it")
    text = (
        REWARD.replace("NAME", path.stem)
        .replace("FILE", path.name)
        .replace("CASES", cases.name)
    )
    rows = [
        {"completion": completion, "answer": "Paris", "expected": expected}
        for completion, expected in COMPLETIONS
    ]
    try:
        path.write_text(text, encoding="utf-8")
        cases.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        raise RewardError(f"cannot write {error.filename}: {error.strerror}") from None
    return path, cases
