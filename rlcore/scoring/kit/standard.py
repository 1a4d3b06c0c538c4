"""What full credit is for a reward: how a right answer scores, and how a wrong one, on some tasks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
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
"""How models are asked to write a final answer."""
EXAMPLES = (
    ("Which of these is prime: 4, 14, 17, 21 or 25?", "17", ("4", "14", "21", "25")),
    (
        "Which of these is a capital: Lyon, Milan, Paris, Porto or Zurich?",
        "Paris",
        ("Lyon", "Milan", "Porto", "Zurich"),
    ),
    ("Which is a fruit? (A) chair (B) apple (C) cloud (D) spoon", "B", ("A", "C", "D")),
)
"""Prompt, gold and the other candidates of tasks to try a reward on where the user gives none."""


@dataclass(frozen=True, kw_only=True)
class Standard:
    """A task with an answer that is right, and what right and wrong answers to it are worth."""

    case: Case
    decoys: tuple[str, ...]
    """Answers as short as the gold one, all wrong."""
    right: float
    wrong: float

    @property
    def tells_apart(self) -> bool:
        """Whether the reward gives more for the right answer: one of form or length alone does not."""
        return self.right > self.wrong

    def earns(self, verdict: Verdict) -> bool:
        """Whether a verdict on an answer that is not right gives it more than half of what a right one earns."""
        return (
            self.tells_apart
            and verdict.value is not None
            and verdict.value > (self.right + self.wrong) / 2
        )


def standards(scorer: Scorer, cases: Sequence[Case], *, limit: int = 5) -> list[Standard]:
    """One for each of the first `limit` tasks of `cases` with an answer that is expected to score highest, or for `EXAMPLES`.

    Raises `RewardError` if an answer of a case that is expected to score highest gives no value.
    """
    if not cases:
        found = [_of_example(scorer, *example) for example in EXAMPLES]
        telling = [standard for standard in found if standard is not None and standard.tells_apart]
        return telling or [standard for standard in found if standard is not None][:1]
    expected = [case.expected for case in cases if case.expected is not None]
    best = [
        case
        for case in cases
        if case.expected is not None and case.expected == max(expected) > min(expected)
    ]
    return [_of_case(scorer, case, cases) for case in best[:limit]]


def _of_case(scorer: Scorer, case: Case, cases: Sequence[Case]) -> Standard:
    verdict = run_case(scorer, case).verdict
    if verdict.value is None:
        raise RewardError(
            f"the right answer of {case.name} got no score ({verdict.status}): {verdict.reason}"
        )
    others = [str(other.gold) for other in cases if isinstance(other.gold, str | int | float)]
    decoys = tuple(_decoys(case.gold, others))
    lowest = min(other.expected for other in cases if other.expected is not None)
    return Standard(case=case, decoys=decoys, right=verdict.value, wrong=lowest)


def _of_example(scorer: Scorer, prompt: str, gold: str, decoys: tuple[str, ...]) -> Standard | None:
    """By the way of writing that the reward rewards most; None if it scores none."""
    found = []
    for way in WAYS:
        case = Case(name="right answer", prompt=prompt, gold=gold, answer=way.format(gold))
        values = [
            run_case(scorer, replace(case, answer=answer)).verdict.value
            for answer in (case.answer, way.format(decoys[-1]))
        ]
        if None not in values:
            found.append(Standard(case=case, decoys=decoys, right=values[0], wrong=values[1]))  # type: ignore[arg-type]
    return max(found, key=lambda standard: standard.right - standard.wrong, default=None)


def _decoys(gold: Any, others: Sequence[str]) -> Iterator[str]:
    """Up to four; none where the gold answer is no short text."""
    if (
        not isinstance(gold, str | int | float)
        or isinstance(gold, bool)
        or len(str(gold)) > 80
        or "\n" in str(gold)
    ):
        return
    seen = {str(gold)}
    for seed in range(40):
        decoy = corrupt(str(gold), others, random.Random(seed))
        if decoy not in seen and len(seen) < 5:
            seen.add(decoy)
            yield decoy
