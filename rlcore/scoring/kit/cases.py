"""Completions to try a reward on, and the results."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.goldcheck import as_rollout
from rlcore.scoring.scorer import Scorer
from rlcore.types import Rollout, Task, Verdict

_OTHER_NAMES = {"pred": "completion", "gold": "answer"}
"""Keys that public sets of graded answers use."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One completion to try a reward on."""

    completion: str
    answer: Any = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    prompt: Any = ""
    expected: float | None = None
    """The value it should get; None if any value is fine."""
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Result of one case."""

    name: str
    case: Case
    verdict: Verdict
    seconds: float
    """Duration of the call."""
    right: bool | None
    """Whether it got the expected value; None if no value was expected."""


def run_case(scorer: Scorer, case: Case) -> Trial:
    """Score one case in a call of its own. Seconds include the way to the worker (under 1 ms)."""
    group = as_group(case)
    started = time.perf_counter()
    ((verdict,),) = scorer.score([group])
    seconds = time.perf_counter() - started
    right = None
    if case.expected is not None:
        right = verdict.value is not None and abs(verdict.value - case.expected) < 1e-6
    return Trial(name=case.name, case=case, verdict=verdict, seconds=seconds, right=right)


def read_cases(path: Path, where: Mapping[str, str] | None = None) -> list[Case]:
    """Cases from a jsonl file with rows `{"completion": ..., "answer": ..., "expected": ...}`.

    `prompt` is the task's prompt; other keys are columns, as are those of a mapping `columns`.
    where: only rows with these values are read. Raises `RewardError`.
    """
    cases: list[Case] = []
    number = 0
    try:
        lines = path.read_text(encoding="utf-8-sig").strip("\n").split("\n")
        if lines == [""]:
            raise RewardError(f"the cases file {path} is empty")
        for number, line in enumerate(lines, start=1):
            row = json.loads(line)
            if all(str(row.get(key)) == value for key, value in (where or {}).items()):
                cases.append(_case(row, f"line {number}"))
    except OSError as error:
        raise RewardError(f"cannot read the cases {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise RewardError(
            f"the cases {path} are no text in UTF-8; write a jsonl file"
        ) from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise RewardError(
            f"line {number} of {path} is no case ({error}); "
            'write {"completion": ..., "answer": ..., "expected": ...}'
        ) from None
    return cases


def as_group(case: Case) -> tuple[Task, list[Rollout]]:
    """A case in the form in which the scorer takes groups."""
    task = Task(
        id=case.name or "case", prompt=case.prompt, answer=case.answer, columns=case.columns
    )
    return task, [as_rollout(task.id, case.completion)]


def _case(row: dict[str, Any], name: str) -> Case:
    row = {_OTHER_NAMES.get(key, key): value for key, value in row.items()}
    completion = row.pop("completion")
    if not isinstance(completion, str):
        raise TypeError(f"its completion is of type {type(completion).__name__}, not a text")
    answer = row.pop("answer", None)
    prompt = row.pop("prompt", "")
    expected = row.pop("expected", None)
    if expected is not None and not math.isfinite(float(expected)):
        raise ValueError(f"the expected value is {expected}")
    columns = row.pop("columns", None) or {}
    return Case(
        name=name,
        completion=completion,
        answer=answer,
        prompt=prompt,
        expected=None if expected is None else float(expected),
        columns={**row, **columns},
    )
