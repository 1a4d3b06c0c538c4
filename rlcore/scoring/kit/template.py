"""A first reward file with everything around it that a reward should have: doc, example, cases, test."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rlcore.errors import RewardError

REWARD = '''"""The reward NAME. Try it:    rlcore rewards test FILE --cases CASES    and    rlcore rewards probe FILE

In a recipe:    rewards: [{use: FILE, params: {ignore_case: false}}]
"""

import json
from pathlib import Path

from rlcore import Verdict, reward


@reward
def NAME(answer: str, gold: str, *, ignore_case: bool = True, finished: bool = True, **columns) -> float | Verdict:
    """1 if what follows the last "Answer:" is the gold answer, else 0; without that mark the format is wrong.

    `answer` is what the model wrote, `gold` the task's answer, `columns` the task's other columns. ignore_case: capital and
    small letters are the same. An answer that was cut off before its end is 0.

    >>> NAME("The seat is Paris, not Lyon. Answer: paris", "Paris")
    1.0
    """
    _, mark, final = answer.rpartition("Answer:")
    if not mark:
        return Verdict(value=0.0, status="wrong-format", reason="there is no 'Answer:'")
    pair = (final.strip().rstrip("."), gold.strip())
    return float(finished and len(set(map(str.casefold, pair) if ignore_case else pair)) == 1)


def test_cases():
    """Run by    pytest FILE"""
    for line in Path(__file__).with_suffix(".jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        value = NAME(case["pred"], case["gold"])
        assert getattr(value, "value", value) == case["expected"], case
'''
CASES = (
    {"gold": "Paris", "pred": "It is on the Seine. Answer: Paris", "expected": 1.0},
    {"gold": "Paris", "pred": "Answer: paris.", "expected": 1.0},
    {"gold": "Paris", "pred": "Answer: Lyon", "expected": 0.0},
    {"gold": "Paris", "pred": "Answer: Paris or Lyon", "expected": 0.0},
    {"gold": "Paris", "pred": "Answer: Paris. No, wait. Answer: Lyon", "expected": 0.0},
    {"gold": "Paris", "pred": "Paris", "expected": 0.0},
    {"gold": "Paris", "pred": "Answer:", "expected": 0.0},
)


def write_template(path: Path) -> tuple[Path, Path]:
    """Write the reward file and its cases; the function is called as the file is. Raises `RewardError` if one of them exists."""
    if path.suffix != ".py" or not re.fullmatch(r"[a-z_][a-z0-9_]*", path.stem):
        raise RewardError(
            f"{path.name!r} cannot name a reward file: write small letters, digits and '_', then .py"
        )
    cases = path.with_suffix(".jsonl")
    for file in (path, cases):
        if file.exists():
            raise RewardError(f"{file} exists; give another name or remove it")
    text = REWARD.replace("NAME", path.stem).replace("FILE", path.name).replace("CASES", cases.name)
    try:
        path.write_text(text, encoding="utf-8")
        cases.write_text("".join(json.dumps(case) + "\n" for case in CASES), encoding="utf-8")
    except OSError as error:
        raise RewardError(f"{error.filename} cannot be written: {error.strerror}") from None
    return path, cases
