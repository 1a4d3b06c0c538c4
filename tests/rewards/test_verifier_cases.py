"""Graded cases of disagreement, by cause: what people agree on is right, what they differ on is as decided."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rewards.code import code_tests
from rewards.instructions import instructions
from rewards.math import math_answer
from rewards.math_plain import math_verify
from rewards.text import exact, match
from rlcore.credit.split import SPLITTERS, split_steps
from rlcore.plugin import build
from tests.rewards.test_math_reward import DIFFERENT, EQUAL, HEDGES, pairs
from tests.subwords import subword_tokenizer

FOLDER = Path(
    os.environ.get("RLCORE_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")
)
CASES = FOLDER / "verifier_cases.jsonl"
pytestmark = pytest.mark.skipif(
    not CASES.exists(), reason="the graded cases are not beside the repository; set RLCORE_DATA"
)

DECIDED_AGAINST = {"M11": 1, "M18": 2, "M19": 1, "M27": 1, "M30": 6}
"""How many open cases of each cause have another verdict than the file's; docs/rewards.md says why."""


def rows(*verifiers: str) -> list[dict[str, Any]]:
    lines = CASES.read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["verifier"] in verifiers]


def outcome(row: dict[str, Any]) -> float | str | None:
    """The value of a case, or the status of a verdict without one."""
    columns = row.get("columns", {})
    if row["verifier"] == "math":
        verdict = math_answer(row["pred"], row["gold"], prompt=row.get("prompt", ""))
    elif row["verifier"] == "code":
        verdict = code_tests(row["pred"], **columns)
    elif row["verifier"] == "instructions":
        verdict = instructions(row["pred"], **columns)
    else:
        verdict = {"exact": exact, "match": match}[row["use"]](row["pred"], row["gold"])
    if verdict is None or isinstance(verdict, float):
        return verdict
    return verdict.status if verdict.value is None else verdict.value


def test_every_case_that_people_agree_on_is_right():
    firm = [
        row
        for row in rows("math", "code", "instructions", "text")
        # one is about the machine: test_sandbox.py stops it
        if not row.get("ambiguous")
        and row.get("columns", True)
        and "SIGSTOP" not in row["source"]
    ]
    wrong = [row for row in firm if outcome(row) != row["expected"]]
    assert len(firm) > 130 and not wrong


def test_open_cases_are_decided_as_documented():
    open_rows = [row for row in rows("math", "code") if row.get("ambiguous")]
    against = Counter(row["cause"] for row in open_rows if outcome(row) != row["expected"])
    assert len(open_rows) > 30 and against == DECIDED_AGAINST


def test_steps_are_cut_as_people_cut_them():
    split_rows = rows("split")
    tokenizer = subword_tokenizer([row["pred"] for row in split_rows])
    for row in split_rows:
        name, _, at = row["splitter"].partition(" at ")
        named = {"use": name, "at": at.strip("'")} if at else name
        ids = tokenizer.encode(row["pred"]).ids
        spans = split_steps(ids, tokenizer.decode, build(named, SPLITTERS, what="split"))
        assert [tokenizer.decode(ids[a:b]) for a, b in spans] == row["expected"], row["root"]
    assert len(split_rows) == 5


def test_math_verify_alone_is_right_nowhere_else():
    cases = [(row["gold"], row["pred"], float(row["expected"])) for row in rows("math")]
    cases += [(answer, f"so \\boxed{{{text}}}", 1.0) for answer, text in pairs(EQUAL)]
    cases += [(answer, f"so \\boxed{{{text}}}", 0.0) for answer, text in pairs(DIFFERENT)]
    cases += [(answer, text, 0.0) for answer, text in HEDGES]
    better = []
    for answer, text, expected in cases:
        alone = math_verify(text, answer)
        if alone == expected and math_answer(text, answer) != expected:
            better.append((answer, text))
    # judged with the prompt it was copied from, this one is right too
    allowed = [(row["gold"], row["pred"]) for row in rows("math") if "prompt" in row]
    assert len(cases) > 300 and set(better) <= set(allowed)
