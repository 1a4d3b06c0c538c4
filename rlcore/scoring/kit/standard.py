"""The scale of a reward: what a right and a wrong completion of some tasks earn."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.goldcheck import corrupt
from rlcore.scoring.kit.cases import Case, run_case
from rlcore.scoring.scorer import Scorer
from rlcore.types import Verdict

WAYS = (
    "{}",
    "<think>It is clear.</think><answer>{}</answer>",
    "It is clear.\n#### {}",
    "It is clear, so the answer is {}.",
    "It is clear: \\boxed{{{}}}",
    "It is clear = {}",
)
"""Common ways of writing a final answer."""
EXAMPLES = (
    ("Which of these is prime: 4, 14, 17, 21 or 25?", "17", ("4", "14", "21", "25")),
    (
        "Which of these is a capital: Lyon, Milan, Paris, Porto or Zurich?",
        "Paris",
        ("Lyon", "Milan", "Porto", "Zurich"),
    ),
    ("Which is a fruit? (A) chair (B) apple (C) cloud (D) spoon", "B", ("A", "C", "D")),
)
"""(prompt, answer, the other candidates) of tasks for a reward that comes without cases."""
MAX_DECOYS = 4


@dataclass(frozen=True, kw_only=True)
class Standard:
    """A task with a right completion, and what right and wrong completions of it earn."""

    case: Case
    decoys: tuple[str, ...]
    """Wrong answers, as short as the reference answer."""
    right: float
    wrong: float

    @property
    def tells_apart(self) -> bool:
        """Whether a right completion earns more; not so for rewards of form or length alone."""
        return self.right > self.wrong

    def earns(self, verdict: Verdict) -> bool:
        """Whether a completion that is not right earns more than half of what a right one does."""
        middle = (self.right + self.wrong) / 2
        return self.tells_apart and verdict.value is not None and verdict.value > middle


def standards(scorer: Scorer, cases: Sequence[Case], *, limit: int = 5) -> list[Standard]:
    """One standard for each of the first `limit` cases with the highest expected value.

    Without cases `EXAMPLES` are used. Raises `RewardError` if such a case gets no value.
    """
    if not cases:
        examples = [_of_example(scorer, *example) for example in EXAMPLES]
        scored = [standard for standard in examples if standard is not None]
        telling = [standard for standard in scored if standard.tells_apart]
        return telling or scored[:1]
    expected = [case.expected for case in cases if case.expected is not None]
    if not expected or max(expected) == min(expected):
        return []
    best = [case for case in cases if case.expected == max(expected)]
    return [_of_case(scorer, case, cases) for case in best[:limit]]


def _of_case(scorer: Scorer, case: Case, cases: Sequence[Case]) -> Standard:
    verdict = run_case(scorer, case).verdict
    if verdict.value is None:
        raise RewardError(
            f"the right completion of {case.name} got no score ({verdict.status}): {verdict.reason}"
        )
    others = [
        str(other.answer) for other in cases if isinstance(other.answer, str | int | float)
    ]
    lowest = min(other.expected for other in cases if other.expected is not None)
    return Standard(
        case=case, decoys=_decoys(case.answer, others), right=verdict.value, wrong=lowest
    )


def _of_example(
    scorer: Scorer, prompt: str, answer: str, decoys: tuple[str, ...]
) -> Standard | None:
    """Measured in the way of writing that the reward rewards most; None if it scores none."""
    measured: list[Standard] = []
    for way in WAYS:
        case = Case(
            name="right answer", prompt=prompt, answer=answer, completion=way.format(answer)
        )
        wrong_case = replace(case, completion=way.format(decoys[-1]))
        right = run_case(scorer, case).verdict.value
        wrong = run_case(scorer, wrong_case).verdict.value
        if right is not None and wrong is not None:
            measured.append(Standard(case=case, decoys=decoys, right=right, wrong=wrong))
    return max(measured, key=lambda standard: standard.right - standard.wrong, default=None)


def _decoys(answer: Any, others: Sequence[str]) -> tuple[str, ...]:
    """Up to four wrong answers; none if the reference answer is no short text."""
    if not isinstance(answer, str | int | float) or isinstance(answer, bool):
        return ()
    text = str(answer)
    if len(text) > 80 or "\n" in text:
        return ()
    decoys: list[str] = []
    for seed in range(40):
        decoy = corrupt(text, others, random.Random(seed))
        if decoy != text and decoy not in decoys:
            decoys.append(decoy)
        if len(decoys) == MAX_DECOYS:
            break
    return tuple(decoys)
