"""What goes wrong around a reward: answers that break naive parsers, and the death of its own process.

The second kind is shown on the user's reward itself: `Misbehaving` is that reward, except that the call of an answer with the
column `FAULT` does the fault first, between calls that are as always.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.forms import Answers, RewardSpec, load_reward, reward
from rlcore.scoring.kit.cases import Case, Trial, as_group, run_case
from rlcore.scoring.scorer import Scorer
from rlcore.scoring.worker import LOAD_DEADLINE_S
from rlcore.types import Verdict

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
"""Answers that models do write, and that break naive parsers; each must get a verdict, and none a high score."""

FAULT = "rlcore_fault"
WORKERS = 2
ROLL_CALL = "roll call"


def _loop() -> None:
    while True:
        pass


def _hog() -> None:
    hoard = []
    while True:
        hoard.append(
            bytes(64 << 20)
        )  # zeros that nobody reads: counted by the bound, not held in memory


PROCESS_FAULTS: Mapping[str, tuple[Callable[[], object], str]] = {
    "infinite loop": (_loop, "timed-out"),
    "exit": (lambda: os._exit(3), "crashed"),
    "segmentation fault": (lambda: ctypes.string_at(0), "crashed"),
    "memory hog": (_hog, "crashed"),
}
"""What a call does to its own process, and the status it must get."""


@dataclass(frozen=True, kw_only=True)
class ProcessTrial:
    """One fault of the reward's process. `contained`: it got its status, the next answer its usual verdict, the pool is whole."""

    name: str
    verdict: Verdict
    seconds: float
    next_is_right: bool
    workers: int
    """Of the pool's `WORKERS`, those that answered a roll call afterwards."""
    contained: bool


@reward
class Misbehaving:
    """The reward `use`, whose process does what the column `FAULT` names; each verdict says who gave it."""

    def __init__(self, *, use: str, params: Mapping[str, Any]) -> None:
        self.inner = load_reward(RewardSpec(use, params=params))
        if hasattr(self.inner.function, "memory_gb"):
            self.memory_gb = self.inner.function.memory_gb

    def __call__(
        self,
        answer: str,
        gold: Any,
        prompt: Any,
        completion_ids: list[int],
        finished: bool,
        **columns: Any,
    ) -> Verdict:
        fault = columns.pop(FAULT, "")
        if fault == ROLL_CALL:
            time.sleep(0.05)  # long enough for the other workers to take the next call
            return Verdict(value=0.0, parts={"pid": os.getpid()})
        if fault:
            PROCESS_FAULTS[fault][0]()
        answers = Answers(
            prompt=prompt,
            gold=gold,
            columns=columns,
            texts=[answer],
            completion_ids=[completion_ids],
            finished=[finished],
        )
        unbounded = float(getattr(self, "memory_gb", 1.0) is None)
        return replace(
            self.inner.one(answers, 0), parts={"pid": os.getpid(), "unbounded": unbounded}
        )


def try_process_faults(
    use: str, params: Mapping[str, Any], case: Case, *, deadline_s: float
) -> list[ProcessTrial]:
    """Each of `PROCESS_FAULTS` in a pool of workers that score `case` before and after it.

    deadline_s is for ordinary calls; the infinite loop is given ten times what the case takes, at least 1 s. A reward without
    memory bound is spared the memory hog. Raises `RewardError` if the reward cannot be loaded or a worker does not come back.
    """
    spec = RewardSpec(
        "rlcore.scoring.kit.faults:Misbehaving",
        params={"use": use, "params": dict(params)},
        name="it",
    )
    with Scorer([spec], workers=1, deadline_s=deadline_s) as scorer:
        run_case(scorer, case)  # the first call may import or open what later ones find ready
        usual = run_case(scorer, case)
    patience = min(deadline_s, max(1.0, 10 * usual.seconds))
    names = [
        name
        for name in PROCESS_FAULTS
        if name != "memory hog" or not usual.verdict.parts.get("it/unbounded")
    ]
    with Scorer([spec], workers=WORKERS, deadline_s=patience) as scorer:
        _roll_call(scorer, case)
        return [_try(scorer, name, case, usual) for name in names]


def _try(scorer: Scorer, name: str, case: Case, usual: Trial) -> ProcessTrial:
    trial = run_case(scorer, replace(case, columns={**case.columns, FAULT: name}))
    after = run_case(scorer, case).verdict
    same = (after.value, after.status) == (usual.verdict.value, usual.verdict.status)
    workers = _roll_call(scorer, case)
    as_due = trial.verdict.status == PROCESS_FAULTS[name][1]
    return ProcessTrial(
        name=name,
        verdict=trial.verdict,
        seconds=trial.seconds,
        next_is_right=same,
        workers=workers,
        contained=as_due and same and workers == WORKERS,
    )


def _roll_call(scorer: Scorer, case: Case) -> int:
    """How many workers answer; those that are being replaced are waited for."""
    present: set[float | None] = set()
    end = time.monotonic() + LOAD_DEADLINE_S
    here = replace(case, columns={**case.columns, FAULT: ROLL_CALL})
    while len(present) < WORKERS and time.monotonic() < end:
        groups = scorer.score([as_group(here)] * WORKERS * 2)
        present = {verdict.parts.get("it/pid") for (verdict,) in groups} - {None}
    if not present:
        raise RewardError("no reward worker came back after a fault")
    return len(present)
