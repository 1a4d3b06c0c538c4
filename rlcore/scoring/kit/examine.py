"""A test of a reward: accuracy on cases, time, hostile completions, the death of its process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.kit.cases import Case, Trial, run_case
from rlcore.scoring.kit.faults import FAULTS, ProcessTrial, try_process_faults
from rlcore.scoring.kit.standard import EXAMPLES, Standard, standards
from rlcore.scoring.scorer import Scorer

PERCENTILES = (50, 90, 99, 100)
HANGS = 3
"""Calls in a row that may time out at the start; the rest would take minutes and tell no more."""


@dataclass(frozen=True, kw_only=True)
class Examination:
    """Result of `rlcore rewards test`. `problems` are sentences; without any the reward passed."""

    reward: str
    cases: list[Trial]
    faults: list[Trial]
    process: list[ProcessTrial]
    problems: list[str]

    @property
    def accuracy(self) -> float | None:
        """Fraction of the cases with an expected value that got it, None without any."""
        judged = [trial.right for trial in self.cases if trial.right is not None]
        return sum(judged) / len(judged) if judged else None

    @property
    def milliseconds(self) -> dict[str, float]:
        """Percentiles of the duration of one call: on the cases, or on the faults without any."""
        times = [trial.seconds * 1000 for trial in self.cases or self.faults]
        values = np.percentile(times, PERCENTILES)
        result: dict[str, float] = {}
        for percentile, value in zip(PERCENTILES, values, strict=True):
            name = "max" if percentile == 100 else f"p{percentile}"
            result[name] = round(float(value), 3)
        return result

    def as_dict(self) -> dict[str, Any]:
        """For JSON; contains only those cases that disagree."""
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
    """Try a reward on cases and on all faults, each completion in a call of its own in a worker.

    A fault is a problem if it earns more than half of what a right completion earns over a wrong
    one; without cases, right completions of three example tasks are used. Raises `RewardError` if
    the reward cannot be loaded.
    """
    spec = RewardSpec(use, params=params or {})
    with Scorer([spec], workers=1, deadline_s=deadline_s) as scorer:
        first = _until_an_answer(scorer, _default(cases))
        if first[-1].verdict.status == "timed-out":
            problem = f"{HANGS} calls timed out one after the other, and nothing else was tried"
            return Examination(
                reward=use, cases=[], faults=first, process=[], problems=[problem]
            )
        trials = [run_case(scorer, case) for case in _named(cases)]
        measured = standards(scorer, cases, limit=1)
        base = measured[0].case if measured else _default(cases)
        faults = [run_case(scorer, case) for case in _fault_cases(base)]
    process = try_process_faults(use, params or {}, base, deadline_s=deadline_s)
    problems = _problems(trials, faults, process, measured)
    return Examination(
        reward=use, cases=trials, faults=faults, process=process, problems=problems
    )


def try_reward(
    use: str,
    cases: Sequence[Case],
    params: Mapping[str, Any] | None = None,
    *,
    deadline_s: float = 10.0,
    faults: bool = True,
) -> list[Trial]:
    """Only the verdicts: on the cases, and on `FAULTS` with answer and columns of the first case.

    Raises `RewardError` if the reward cannot be loaded.
    """
    all_cases = _named(cases)
    if faults:
        all_cases += _fault_cases(_default(cases), prefix="fault: ")
    spec = RewardSpec(use, params=params or {})
    with Scorer([spec], workers=1, deadline_s=deadline_s) as scorer:
        return [run_case(scorer, case) for case in all_cases]


def _until_an_answer(scorer: Scorer, case: Case) -> list[Trial]:
    """The case again and again, up to `HANGS` times, until a call does not time out."""
    trials: list[Trial] = []
    while len(trials) < HANGS:
        trials.append(run_case(scorer, case))
        if trials[-1].verdict.status != "timed-out":
            break
    return trials


def _problems(
    trials: Sequence[Trial],
    faults: Sequence[Trial],
    process: Sequence[ProcessTrial],
    measured: Sequence[Standard],
) -> list[str]:
    problems: list[str] = []
    wrong = [trial for trial in trials if trial.right is False]
    if wrong:
        problems.append(
            f"{len(wrong)} of {len(trials)} cases did not get the expected value, "
            f"first {wrong[0].name}"
        )
    for trial in faults:
        if measured and measured[0].earns(trial.verdict):
            problems.append(
                f"the fault {trial.name!r} earns {trial.verdict.value:g}, "
                f"and a right completion {measured[0].right:g}"
            )
    for process_trial in process:
        if not process_trial.contained:
            problems.append(f"after the fault {process_trial.name!r} the pool is not as before")
    everything = [*trials, *faults]
    if all(trial.verdict.status == "crashed" for trial in everything):
        reason = everything[0].verdict.reason
        problems.append(f"the reward crashed on every completion: {reason}")
    elif all(trial.verdict.value is None for trial in everything):
        first = everything[0].verdict
        problems.append(
            f"no completion got a value, so nothing was tested ({first.status}: {first.reason}); "
            "give cases with the columns that the reward needs"
        )
    return problems


def _fault_cases(base: Case, prefix: str = "") -> list[Case]:
    return [
        replace(base, name=f"{prefix}{name}", completion=text, expected=None)
        for name, text in FAULTS.items()
    ]


def _named(cases: Sequence[Case]) -> list[Case]:
    return [
        replace(case, name=case.name or f"case {number}") for number, case in enumerate(cases)
    ]


def _default(cases: Sequence[Case]) -> Case:
    if cases:
        return cases[0]
    prompt, answer, _ = EXAMPLES[0]
    return Case(completion=answer, answer=answer, prompt=prompt, name="example")


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "name": trial.name,
        "status": trial.verdict.status,
        "value": trial.verdict.value,
        "expected": trial.case.expected,
        "milliseconds": round(trial.seconds * 1000, 3),
        "reason": trial.verdict.reason,
    }
