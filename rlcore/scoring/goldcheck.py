"""Do the rewards agree with the data? A task's reference answer must pass, a corrupted one not."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.types import Rollout, Task, Verdict

_LAST_NUMBER = re.compile(
    r"(?s)^(.*?)((?:(?<![\w)])-)?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)([^0-9A-Za-z]*)$"
)
"""Text before the last number, the number, and what follows it without letters or digits."""


@dataclass(frozen=True, kw_only=True)
class AnswerException:
    """A text that was scored the wrong way round."""

    id: str
    answer: str
    kind: Literal["reference", "corrupted"]
    scored: str
    """The text that was given to the rewards."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class AnswerReport:
    """Rates are fractions of the checked tasks. The first reward decides what passes."""

    checked: int
    reference_rate: float | None
    """Reference answers that pass; should be 1. None if nothing could be checked."""
    corrupted_rate: float | None
    """Corrupted answers that pass; should be 0."""
    without_answer: int
    """Tasks that were left out because their answer is neither text nor a number."""
    wrong_demonstrations: int
    """Demonstrations that do not end in the reference answer; the check puts it in their place."""
    exceptions: list[AnswerException] = field(default_factory=list)


def check_reference_answers(
    tasks: Sequence[Task], rewards: Sequence[RewardSpec], *, n: int = 200, seed: int = 0
) -> AnswerReport:
    """Score the reference answers of n tasks, drawn by `seed`, and a corrupted copy of each.

    A task's demonstration shows how an answer is written, so the value is put where the
    demonstration has its answer; without a demonstration the answer alone is scored. A number is
    corrupted by adding 1 to 9, other text by taking the answer of another task.
    Raises `RewardError` if a reward cannot be loaded.
    """
    rng = random.Random(seed)
    chosen = sorted(rng.sample(range(len(tasks)), min(n, len(tasks))))
    sample = [tasks[i] for i in chosen]
    checkable = [task for task in sample if _is_checkable(task.answer)]
    answers = [str(task.answer) for task in checkable]
    items, texts = [], []
    for task, answer in zip(checkable, answers, strict=True):
        pair = (write_answer(task, answer), write_answer(task, corrupt(answer, answers, rng)))
        texts.append(pair)
        items.append((task, [as_rollout(task.id, text) for text in pair]))
    with Scorer(rewards) as scorer:
        verdicts = scorer.score(items)

    exceptions: list[AnswerException] = []
    reference_passes = 0
    corrupted_passes = 0
    for task, pair, (reference, corrupted) in zip(checkable, texts, verdicts, strict=True):
        if reference.passed():
            reference_passes += 1
        else:
            exceptions.append(_exception(task, "reference", pair[0], reference))
        if corrupted.passed():
            corrupted_passes += 1
            exceptions.append(_exception(task, "corrupted", pair[1], corrupted))
    count = len(checkable)
    return AnswerReport(
        checked=count,
        reference_rate=reference_passes / count if count else None,
        corrupted_rate=corrupted_passes / count if count else None,
        without_answer=len(sample) - count,
        exceptions=exceptions,
        wrong_demonstrations=sum(map(_demonstration_is_wrong, checkable)),
    )


def corrupt(answer: str, others: Sequence[str], rng: random.Random) -> str:
    """A text with another value: its last number changed, else one of `others`, else an added x."""
    match = _LAST_NUMBER.match(answer)
    if match:
        before, number, after = match.groups()
        changed = Decimal(number.replace(",", "")) + rng.randint(1, 9)
        return f"{before}{changed}{after}"
    plain = answer.strip().casefold()
    different = sorted({other for other in others if other.strip().casefold() != plain})
    return rng.choice(different) if different else f"{answer}x"


def write_answer(task: Task, value: str) -> str:
    """`value` as an answer to the task, in place of the answer of its demonstration if any."""
    split = _split_demonstration(task)
    if split is None:
        return value
    before, _, after = split
    return before + value + after


def _split_demonstration(task: Task) -> tuple[str, str, str] | None:
    """The demonstration as (text before the answer, its answer, text after).

    None if there is no demonstration or no answer in it.
    """
    if not isinstance(task.demonstration, str):
        return None
    demonstration = str(task.demonstration)
    answer = str(task.answer)
    last = _LAST_NUMBER.match(demonstration)
    number = _LAST_NUMBER.match(answer.strip())
    if last and number and not number[1] and not number[3]:
        return last[1], last[2], last[3]
    before, text, after = demonstration.rpartition(answer)
    return (before, text, after) if text else None


def _demonstration_is_wrong(task: Task) -> bool:
    if task.demonstration is None:
        return False
    split = _split_demonstration(task)
    if split is None:
        return True
    return split[1].replace(",", "") != str(task.answer).strip().replace(",", "")


def as_rollout(id: str, text: str) -> Rollout:
    """A text as a finished completion, for the scorer. Without a tokenizer, a word is one token."""
    words = max(1, len(text.split()))
    return Rollout.from_tokens(
        id=id,
        task_id=id,
        token_ids=[0] * (words + 1),
        mask=[False] + [True] * words,
        logprobs=[0.0] * (words + 1),
        text=text,
        finish="stop",
        version=0,
    )


def _is_checkable(answer: object) -> bool:
    return isinstance(answer, str | int | float) and bool(str(answer).strip())


def _exception(
    task: Task, kind: Literal["reference", "corrupted"], text: str, verdict: Verdict
) -> AnswerException:
    return AnswerException(
        id=task.id, answer=str(task.answer), kind=kind, scored=text, verdict=verdict
    )
