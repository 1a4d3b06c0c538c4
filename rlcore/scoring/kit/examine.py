"""A reward put to the test: accuracy on cases, time an answer, hostile answers, and the death of its process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.kit.cases import Case, Trial, run_case
from rlcore.scoring.kit.faults import FAULTS, ProcessTrial, try_process_faults
from rlcore.scoring.kit.standard import EXAMPLES, standards
from rlcore.scoring.scorer import Scorer

PERCENTILES = (50, 90, 99, 100)


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What `rlcore rewards test` found. `problems` are sentences; without one the reward passed."""

    reward: str
    cases: list[Trial]
    faults: list[Trial]
    process: list[ProcessTrial]
    problems: list[str]

    @property
    def accuracy(self) -> float | None:
        """Share of the cases with an expectation that got it, None without any."""
        judged = [trial.right for trial in self.cases if trial.right is not None]
        return sum(judged) / len(judged) if judged else None

    @property
    def milliseconds(self) -> dict[str, float]:
        """Percentiles of the time of one call: on the cases, or on the faults where there are none."""
        times = [trial.seconds * 1000 for trial in self.cases or self.faults]
        names = [f"p{percentile}" if percentile < 100 else "max" for percentile in PERCENTILES]
        return {
            name: round(float(value), 3)
            for name, value in zip(names, np.percentile(times, PERCENTILES), strict=True)
        }

    def as_dict(self) -> dict[str, Any]:
        """For JSON; of the cases only those that disagree."""
        return {
            "reward": self.reward,
            "cases": len(self.cases),
            "accuracy": self.accuracy,
            "disagreements": [_row(trial) for trial in self.cases if trial.right is False],
            "milliseconds": self.milliseconds,
            "faults": [_row(trial) for trial in self.faults],
            "process": [asdict(trial) for trial in self.process],
            "problems": self.problems,
        }


def examine(
    use: str,
    cases: Sequence[Case],
    params: Mapping[str, Any] | None = None,
    *,
    deadline_s: float = 10.0,
) -> Examination:
    """Try a reward on cases and on all faults, each answer in a call of its own in a worker process.

    A fault is a problem if it earns more than half of what a right answer earns over a wrong one; where there are no cases,
    right answers are written to three tasks of our own. Raises `RewardError` if the reward cannot be loaded.
    """
    with Scorer([RewardSpec(use, params=params or {})], workers=1, deadline_s=deadline_s) as scorer:
        trials = [run_case(scorer, case) for case in _named(cases)]
        known = standards(scorer, cases, limit=1)
        base = known[0].case if known else _default(cases)
        faults = [
            run_case(scorer, replace(base, name=name, answer=text, expected=None))
            for name, text in FAULTS.items()
        ]
    process = try_process_faults(use, params or {}, base, deadline_s=deadline_s)
    wrong = [trial for trial in trials if trial.right is False]
    problems = (
        [
            f"{len(wrong)} of {len(trials)} cases did not get the expected value, first {wrong[0].name}"
        ]
        if wrong
        else []
    )
    problems += [
        f"the fault {trial.name!r} earns {trial.verdict.value:g}, and a right answer {known[0].right:g}"
        for trial in faults
        if known and known[0].earns(trial.verdict)
    ]
    problems += [
        f"after the fault {trial.name!r} the pool is not as before"
        for trial in process
        if not trial.contained
    ]
    crashed = [trial for trial in [*trials, *faults] if trial.verdict.status == "crashed"]
    if len(crashed) == len(trials) + len(faults):
        problems.append(f"the reward crashed on every answer: {crashed[0].verdict.reason}")
    return Examination(reward=use, cases=trials, faults=faults, process=process, problems=problems)


def try_reward(
    use: str,
    cases: Sequence[Case],
    params: Mapping[str, Any] | None = None,
    *,
    deadline_s: float = 10.0,
    faults: bool = True,
) -> list[Trial]:
    """Only the verdicts: of the cases, and of `FAULTS` with the first case's gold, columns and prompt.

    Raises `RewardError` if the reward cannot be loaded.
    """
    base = _default(cases)
    injected = [
        replace(base, name=f"fault: {name}", answer=text, expected=None)
        for name, text in FAULTS.items()
        if faults
    ]
    with Scorer([RewardSpec(use, params=params or {})], workers=1, deadline_s=deadline_s) as scorer:
        return [run_case(scorer, case) for case in [*_named(cases), *injected]]


def _named(cases: Sequence[Case]) -> list[Case]:
    return [replace(case, name=case.name or f"case {number}") for number, case in enumerate(cases)]


def _default(cases: Sequence[Case]) -> Case:
    prompt, gold, _ = EXAMPLES[0]
    return cases[0] if cases else Case(answer=gold, gold=gold, prompt=prompt, name="example")


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "status": trial.verdict.status,
        "value": trial.verdict.value,
        "expected": trial.case.expected,
        "milliseconds": round(trial.seconds * 1000, 3),
        "reason": trial.verdict.reason,
    }
