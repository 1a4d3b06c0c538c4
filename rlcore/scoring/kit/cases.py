"""Answers to try a reward on, and what came of them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.goldcheck import written
from rlcore.scoring.scorer import Scorer
from rlcore.types import Rollout, Task, Verdict


@dataclass(frozen=True, kw_only=True)
class Case:
    """One answer to try a reward on. `expected` is the value it should get, None where any will do."""

    answer: str
    gold: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    prompt: Any = ""
    expected: float | None = None
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one case. `right` is None where nothing was expected; `seconds` is the time of the call."""

    name: str
    case: Case
    verdict: Verdict
    seconds: float
    right: bool | None


def run_case(scorer: Scorer, case: Case) -> Trial:
    """Score one case in a call of its own. Seconds include the way to the worker, under a millisecond."""
    group = as_group(case)
    started = time.perf_counter()
    ((verdict,),) = scorer.score([group])
    seconds = time.perf_counter() - started
    right = (
        None
        if case.expected is None
        else verdict.value is not None and abs(verdict.value - case.expected) < 1e-6
    )
    return Trial(name=case.name, case=case, verdict=verdict, seconds=seconds, right=right)


def read_cases(path: Path) -> list[Case]:
    """Cases from a jsonl file of `{"gold": ..., "pred": ..., "expected": ...}`; `prompt` is the task's, other keys are columns.

    Raises `RewardError`.
    """
    cases: list[Case] = []
    try:
        for number, line in enumerate(
            path.read_text(encoding="utf-8").strip("\n").split("\n"), start=1
        ):
            row = json.loads(line)
            answer, gold, expected = (
                row.pop("pred"),
                row.pop("gold", None),
                row.pop("expected", None),
            )
            prompt = row.pop("prompt", "")
            expected = None if expected is None else float(expected)
            cases.append(
                Case(
                    name=f"line {number}",
                    answer=answer,
                    gold=gold,
                    prompt=prompt,
                    expected=expected,
                    columns=row,
                )
            )
    except OSError as error:
        raise RewardError(f"the cases {path} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise RewardError(
            f'line {len(cases) + 1} of {path} is no case ({error}); write {{"gold": ..., "pred": ..., "expected": ...}}'
        ) from None
    return cases


def as_group(case: Case) -> tuple[Task, list[Rollout]]:
    """A case as the scorer takes it."""
    task = Task(id=case.name or "case", prompt=case.prompt, answer=case.gold, columns=case.columns)
    return task, [written(task.id, case.answer)]
