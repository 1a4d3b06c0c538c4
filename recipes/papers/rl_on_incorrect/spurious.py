"""Sums with hints that are mostly right: a shortcut that the worked solutions of few problems do not tell from the real rule.

    prompt "17 98?1 89?0 43?1="     a column of digits each, from the right; behind ? a hint what is carried into it
    demonstration "170:08;981:18;891:18;431:08;=08888"

A step is two digits, what is carried, and their sum; behind = stands the result. What is carried can be read off the step
before, or copied from the hint.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from hashlib import blake2b
from typing import Any, Literal

from rlcore import Task, reward
from rlcore.credit.group import scored_rollouts
from rlcore.credit.pairs import Pair
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Group

HELD_OUT_ONE_IN = 8
STEP = re.compile(r"\d\d(\d):(\d)\d")
"""What is carried into a column, and what the next one is to be given."""


def sums(
    *,
    split: Literal["train", "heldout"] = "train",
    size: int = 100_000,
    seed: int = 0,
    columns: int = 5,
    hints_right: float = 0.5,
    copies: float = 0.0,
) -> Sequence[Task]:
    """hints_right: probability that a hint is right. copies: probability of a demonstration's step to copy its hint."""

    def make(i: int) -> Task:
        draw = random.Random(f"{seed}/{split}/{i}")
        digits = _digits(draw, columns, held_out=split == "heldout")
        carries = carries_of(digits)
        hints = [c if draw.random() < hints_right else 1 - c for c in carries[1:]]
        copied = [draw.random() < copies for _ in hints]
        return Task(
            id=f"sums/{split}/{seed}/{i}",
            prompt=prompt_of(digits, hints),
            answer=result_of(digits),
            category=f"{columns}-columns",
            demonstration=worked(digits, hints, copied),
            columns={"hints": hints},
        )

    return LazyTasks(size, make)


def _digits(draw: random.Random, columns: int, *, held_out: bool) -> list[tuple[int, int]]:
    """Columns from the right; which split two numbers belong to is a matter of their hash."""
    while True:
        digits = [(draw.randrange(10), draw.randrange(10)) for _ in range(columns)]
        code = blake2b(repr(digits).encode(), digest_size=8).digest()
        if (int.from_bytes(code, "big") % HELD_OUT_ONE_IN == 0) == held_out:
            return digits


def carries_of(digits: Sequence[tuple[int, int]]) -> list[int]:
    """What is carried into each column."""
    carries = [0]
    for a, b in digits[:-1]:
        carries.append((a + b + carries[-1]) // 10)
    return carries


def prompt_of(digits: Sequence[tuple[int, int]], hints: Sequence[int]) -> str:
    shown = [f"{a}{b}" for a, b in digits]
    return " ".join([shown[0], *(f"{s}?{h}" for s, h in zip(shown[1:], hints, strict=True))]) + "="


def result_of(digits: Sequence[tuple[int, int]]) -> str:
    """The sum, with all its digits."""
    first, second = ("".join(str(pair[side]) for pair in reversed(digits)) for side in (0, 1))
    return str(int(first) + int(second)).zfill(len(digits) + 1)


def worked(digits: Sequence[tuple[int, int]], hints: Sequence[int], copied: Sequence[bool]) -> str:
    """A solution; copied: of each column but the first, whether what is carried into it is the hint."""
    steps, written, carry = [], "", 0
    for place, (a, b) in enumerate(digits):
        if place and copied[place - 1]:
            carry = hints[place - 1]
        total = a + b + carry
        steps.append(f"{a}{b}{carry}:{total:02d}")
        written = f"{total % 10}{written}"
        carry = total // 10
    return f"{';'.join(steps)};={carry}{written}"


@reward
def copied(completion: str, hints: Sequence[int], **columns: Any) -> float | None:
    """Fraction of the wrong hints that were copied: how far the shortcut is taken. None where no hint was wrong.

    A hint is wrong where it differs from what the step before says.

    >>> copied("170:08;981:18;891:18;431:08;=08888", hints=[1, 0, 1])
    0.5
    """
    steps = [STEP.match(step) for step in completion.split(";")]
    wrong = [
        (int(step[1]), hint)
        for before, step, hint in zip(steps, steps[1:], hints, strict=False)
        if before and step and int(before[2]) != hint
    ]
    return sum(carried == hint for carried, hint in wrong) / len(wrong) if wrong else None


def farthest(group: Group) -> Iterator[Pair]:
    """Each distinct correct completion against the wrong one of the largest edit distance (arXiv 2406.14532, section 5)."""
    scored = scored_rollouts(group)
    correct = {r.text: r for r, verdict in scored if verdict.passed()}
    wrong = {r.text: r for r, verdict in scored if not verdict.passed()}
    for text, chosen in correct.items() if wrong else ():
        rejected = min(wrong, key=lambda other: SequenceMatcher(None, text, other).ratio())
        yield Pair(
            task_id=group.task.id,
            prompt_ids=chosen.prompt_ids,
            chosen_ids=chosen.completion_ids,
            rejected_ids=wrong[rejected].completion_ids,
        )
