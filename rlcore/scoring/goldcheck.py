"""Does the reward agree with the data? The gold answer of a task must score, and a corrupted one must not."""

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


@dataclass(frozen=True, kw_only=True)
class GoldException:
    """One answer that was scored the wrong way round."""

    id: str
    gold: str
    kind: Literal["gold", "corrupted"]
    scored: str
    """The text that was given to the rewards."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class GoldReport:
    """Rates are shares of the checked tasks; an answer passes if the first reward gives it 1."""

    checked: int
    gold_rate: float | None
    """Should be 1: gold answers that pass. None if nothing could be checked."""
    corrupted_rate: float | None
    """Should be 0: corrupted answers that pass."""
    without_answer: int
    """Tasks of the sample left out because their answer is neither text nor a number."""
    wrong_demonstrations: int
    """Demonstrations that do not end in the gold answer; the gold was put into its place for the check."""
    exceptions: list[GoldException] = field(default_factory=list)


def check_gold(
    tasks: Sequence[Task], rewards: Sequence[RewardSpec], *, n: int = 200, seed: int = 0
) -> GoldReport:
    """Score the gold answers of n tasks, drawn by `seed`, and a corrupted copy of each.

    A task's demonstration shows how an answer is written, so the gold (or the corrupted) value is scored in its last place;
    without a demonstration the answer's text alone is. A number is corrupted by adding 1 to 9, other text by taking another
    task's answer. The first reward, a verifier, decides; it is taken to give 1 to a right answer.
    Raises `RewardError` if a reward cannot be loaded.
    """
    rng = random.Random(seed)
    sample = [tasks[i] for i in sorted(rng.sample(range(len(tasks)), min(n, len(tasks))))]
    answered = [
        task
        for task in sample
        if isinstance(task.answer, str | int | float) and str(task.answer).strip()
    ]
    golds = [str(task.answer) for task in answered]
    pairs = [
        (write_answer(task, gold), write_answer(task, corrupt(gold, golds, rng)))
        for task, gold in zip(answered, golds, strict=True)
    ]
    with Scorer(rewards) as scorer:
        verdicts = scorer.score(
            [
                (task, [written(task.id, text) for text in texts])
                for task, texts in zip(answered, pairs, strict=True)
            ]
        )
    passed = [
        [(verdict.parts.get(rewards[0].name) or 0.0) >= 0.999 for verdict in pair]
        for pair in verdicts
    ]
    exceptions = []
    for task, texts, pair, (gold_passed, corrupted_passed) in zip(
        answered, pairs, verdicts, passed, strict=True
    ):
        if not gold_passed:
            exceptions.append(_exception(task, "gold", texts[0], pair[0]))
        if corrupted_passed:
            exceptions.append(_exception(task, "corrupted", texts[1], pair[1]))
    count = len(answered)
    return GoldReport(
        checked=count,
        gold_rate=sum(pair[0] for pair in passed) / count if count else None,
        corrupted_rate=sum(pair[1] for pair in passed) / count if count else None,
        without_answer=len(sample) - count,
        exceptions=exceptions,
        wrong_demonstrations=sum(map(_demonstration_is_wrong, answered)),
    )


def corrupt(gold: str, others: Sequence[str], rng: random.Random) -> str:
    """A text whose value differs from gold's: its last number moved, or else one of `others`, or one letter more."""
    match = _LAST_NUMBER.match(gold)
    if match:
        return f"{match[1]}{Decimal(match[2].replace(',', '')) + rng.randint(1, 9)}{match[3]}"
    different = sorted(
        {other for other in others if other.strip().casefold() != gold.strip().casefold()}
    )
    return rng.choice(different) if different else f"{gold}x"


def write_answer(task: Task, value: str) -> str:
    """`value` as an answer to the task: in the last place of its demonstration, where it has one."""
    if task.demonstration is None:
        return value
    place = _place(task)
    return place[0] + value + place[2] if place else value


def _place(task: Task) -> tuple[str, str, str] | None:
    """The demonstration as text before the answer, the answer it gives, text after; None if it holds no answer."""
    shown, gold = str(task.demonstration), str(task.answer)
    last, number = _LAST_NUMBER.match(shown), _LAST_NUMBER.match(gold.strip())
    if last and number and not number[1] and not number[3]:
        return last[1], last[2], last[3]
    before, found, after = shown.rpartition(gold)
    return (before, found, after) if found else None


def _demonstration_is_wrong(task: Task) -> bool:
    if task.demonstration is None:
        return False
    place = _place(task)
    return place is None or place[1].replace(",", "") != str(task.answer).strip().replace(",", "")


def written(id: str, text: str) -> Rollout:
    """A text as a whole answer, for the scorer. There is no tokenizer here: a word stands for a token."""
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


def _exception(
    task: Task, kind: Literal["gold", "corrupted"], text: str, verdict: Verdict
) -> GoldException:
    return GoldException(id=task.id, gold=str(task.answer), kind=kind, scored=text, verdict=verdict)
