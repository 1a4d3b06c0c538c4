"""What goes wrong around a reward: completions that break parsers, and the death of its process.

The second kind is tried on the user's reward itself: `Misbehaving` wraps it, and a call with the
column `FAULT` first commits the fault; the calls before and after are ordinary ones.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.forms import GroupView, RewardSpec, reward
from rlcore.scoring.kit.cases import Case, Trial, as_group, run_case
from rlcore.scoring.load import load_reward
from rlcore.scoring.scorer import Scorer
from rlcore.scoring.worker import LOAD_DEADLINE_S
from rlcore.types import Message, Verdict

FAULTS: Mapping[str, str] = {
    "empty": "",
    "spaces": " \n\t ",
    "1 MB": "so on " * 174_763,
    "1 MB in one word": "a" * 1_048_576,
    "NaN": "nan",
    "infinity": "-inf",
    "unicode": "\u202e\U0001d7d9\u0663\u00bd \ufeff\u0000 e\u0301 \U0001f469\u200d\U0001f52c",
    "half a surrogate": "\ud800",
    "half a tag": "<think><answer>no idea</think>",
    "nested LaTeX": "\\boxed{" + "\\frac{" * 2_000,
    "tower of powers": "\\boxed{9^{9^{9^{9^{9}}}}}",
    "factorials": "\\boxed{((((99999!)!)!)!)!}",
    "unclosed LaTeX": "$$\\left(\\begin{matrix}" * 500,
    "deep brackets": "[" * 100_000,
    "deep JSON": '{"a":' * 20_000,
}
"""Texts that models do write and that break naive parsers; each must get a verdict, none much."""

FAULT = "rlcore_fault"
ROLL_CALL = "roll call"
WORKERS = 2
NAME = "tested"
"""The reward's name in its verdicts."""


def _loop_forever() -> None:
    while True:
        pass


def _fill_memory() -> None:
    blocks = []
    while True:
        # Zeros that are never read count towards the limit and take no physical memory.
        blocks.append(bytes(64 << 20))


PROCESS_FAULTS: Mapping[str, tuple[Callable[[], object], str]] = {
    "infinite loop": (_loop_forever, "timed-out"),
    "exit": (lambda: os._exit(3), "crashed"),
    "segmentation fault": (lambda: ctypes.string_at(0), "crashed"),
    "memory hog": (_fill_memory, "crashed"),
}
"""What a call does to its own process, and the status that it must get."""


@dataclass(frozen=True, kw_only=True)
class ProcessTrial:
    """Result of one fault of the reward's process."""

    name: str
    verdict: Verdict
    seconds: float
    next_is_right: bool
    """Whether the next completion got its usual verdict."""
    workers: int
    """Workers out of `WORKERS` that served a call afterwards."""
    contained: bool
    """Whether the fault got its status, the next verdict is right and all workers are there."""


@reward
class Misbehaving:
    """The reward `use` in a process that commits the fault named by the column `FAULT`.

    Each verdict carries the process id of its worker.
    """

    def __init__(self, *, use: str, params: Mapping[str, Any]) -> None:
        self.inner = load_reward(RewardSpec(use, params=params))
        if hasattr(self.inner.function, "memory_gb"):
            self.memory_gb = self.inner.function.memory_gb

    def __call__(
        self,
        completion: str,
        answer: Any,
        prompt: Any,
        completion_ids: list[int],
        finished: bool,
        messages: list[Message],
        **columns: Any,
    ) -> Verdict:
        fault = columns.pop(FAULT, "")
        if fault == ROLL_CALL:
            time.sleep(0.05)  # long enough for the other workers to take the next call
            return Verdict(value=0.0, parts={"pid": os.getpid()})
        if fault:
            commit, _ = PROCESS_FAULTS[fault]
            commit()
        view = GroupView(
            prompt=prompt,
            answer=answer,
            columns=columns,
            completions=[completion],
            completion_ids=[completion_ids],
            finished=[finished],
            messages=[messages],
            prompt_messages=len(messages) - 1,
        )
        unbounded = float(getattr(self, "memory_gb", 1.0) is None)
        verdict = self.inner.one(view, 0)
        return replace(verdict, parts={"pid": os.getpid(), "unbounded": unbounded})


def try_process_faults(
    use: str, params: Mapping[str, Any], case: Case, *, deadline_s: float
) -> list[ProcessTrial]:
    """Try each of `PROCESS_FAULTS` in a pool of workers that score `case` before and after it.

    deadline_s is for ordinary calls; the infinite loop may take ten times as long as the case, at
    least 1 s. A reward without memory limit is not given the memory hog. Raises `RewardError` if
    the reward cannot be loaded or no worker comes back.
    """
    spec = RewardSpec(
        "rlcore.scoring.kit.faults:Misbehaving",
        params={"use": use, "params": dict(params)},
        name=NAME,
    )
    with Scorer([spec], workers=1, deadline_s=deadline_s) as scorer:
        run_case(scorer, case)  # the first call may import or open things
        usual = run_case(scorer, case)
    names = list(PROCESS_FAULTS)
    if usual.verdict.parts.get(f"{NAME}/unbounded"):
        names.remove("memory hog")
    fault_deadline_s = min(deadline_s, max(1.0, 10 * usual.seconds))
    with Scorer([spec], workers=WORKERS, deadline_s=fault_deadline_s) as scorer:
        _count_workers(scorer, case)
        return [_try(scorer, name, case, usual) for name in names]


def _try(scorer: Scorer, name: str, case: Case, usual: Trial) -> ProcessTrial:
    trial = run_case(scorer, replace(case, columns={**case.columns, FAULT: name}))
    after = run_case(scorer, case).verdict
    same = (after.value, after.status) == (usual.verdict.value, usual.verdict.status)
    workers = _count_workers(scorer, case)
    _, expected_status = PROCESS_FAULTS[name]
    return ProcessTrial(
        name=name,
        verdict=trial.verdict,
        seconds=trial.seconds,
        next_is_right=same,
        workers=workers,
        contained=trial.verdict.status == expected_status and same and workers == WORKERS,
    )


def _count_workers(scorer: Scorer, case: Case) -> int:
    """How many workers serve calls; waits for those that are being replaced."""
    roll_call = replace(case, columns={**case.columns, FAULT: ROLL_CALL})
    present: set[float | None] = set()
    end = time.monotonic() + LOAD_DEADLINE_S
    while len(present) < WORKERS and time.monotonic() < end:
        groups = scorer.score([as_group(roll_call)] * WORKERS * 2)
        present = {verdict.parts.get(f"{NAME}/pid") for (verdict,) in groups} - {None}
    if not present:
        raise RewardError("no reward worker came back after a fault")
    return len(present)
