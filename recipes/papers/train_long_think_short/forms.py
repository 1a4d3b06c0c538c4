"""Sums of four numbers that can be answered in three lengths, by a teacher who is careless when in a hurry.

    prompt "7+8+4+6=?[23]"    the number in brackets is the budget

    form      answer                                             tokens with the end   a carry is forgotten
    checked   "7+8=15;15+4=19;19+6=25;4+6=10;8+10=18;7+18=25"    46                    0.2
    again     "7+8=15;15+4=19;19+6=25;6+19=25"                   31                    0.5
    steps     "7+8=15;15+4=19;19+6=25"                           23                    0.95

All results have two digits, so a form has one length. Whoever forgets a carry, in each step by itself, writes a result that is 10
too small and goes on with it; what follows the steps agrees with their result. The numbers are from 4 to 9, so that most sums
have three carries: about 53%, 14% and 0.1% of the demonstrations are right. A demonstration takes the form nearest to its budget nearly always,
and any other form otherwise.
"""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Literal

from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

Split = Literal["train", "validation", "eval_set"]
TOKENS = {"checked": 46, "again": 31, "steps": 23}
FORGOTTEN = {"checked": 0.2, "again": 0.5, "steps": 0.95}
BUDGETS = (20, 49)
"""Smallest and largest budget of a demonstration."""


def sums(*, split: str = "train", size: int = 20_000, seed: int = 0) -> LazyTasks:
    """Problems without a budget, which the recipe's `budget_text` adds."""
    return LazyTasks(size, lambda i: _task(split, seed, i)[0])


def demonstrations(*, size: int = 20_000, seed: int = 0, heed: float = 0.98) -> LazyTasks:
    """Problems with a budget and a worked answer. heed: probability that the form is the one nearest to the budget."""

    def make(i: int) -> Task:
        task, rng = _task("train", seed, i)
        budget = rng.randint(*BUDGETS)
        nearest = min(TOKENS, key=lambda form: abs(TOKENS[form] - budget))
        form = (
            nearest
            if rng.random() < heed
            else rng.choice([other for other in TOKENS if other != nearest])
        )
        forgets = [rng.random() < FORGOTTEN[form] for _ in range(3)]
        worked = answer(task.columns["numbers"], form, forgets)
        return Task(
            id=task.id,
            prompt=f"{task.prompt}[{budget}]",
            answer=task.answer,
            demonstration=worked,
        )

    return LazyTasks(size, make)


def answer(numbers: list[int], form: str, forgets: list[bool]) -> str:
    """The worked sum in one form. forgets: in which of its steps a carry is forgotten, where there is one."""
    a, b, c, d = numbers
    before, said, steps = 0, a, []
    for number, forgot in zip((b, c, d), forgets, strict=True):
        before, total = said, said + number
        said = total - 10 if forgot and total >= 10 else total
        steps.append(
            f"{before:02d}+{number}={said:02d}" if steps else f"{before}+{number}={said:02d}"
        )
    if form == "again":
        steps.append(f"{d}+{before:02d}={said:02d}")
    if form == "checked":
        steps += [
            f"{c}+{d}={c + d:02d}",
            f"{b}+{c + d:02d}={b + c + d:02d}",
            f"{a}+{b + c + d:02d}={said:02d}",
        ]
    return ";".join(steps)


def split_of(numbers: list[int]) -> Split:
    """By the hash of the numbers, in any order: one bucket of eight is for the eval_set, one for choosing settings."""
    bucket = (
        blake2b("+".join(map(str, sorted(numbers))).encode(), digest_size=8).digest()[0] % 8
    )
    return ("eval_set", "validation")[bucket] if bucket < 2 else "train"


def _task(split: str, seed: int, i: int) -> tuple[Task, random.Random]:
    rng = random.Random(f"{seed}/{split}/{i}")
    numbers: list[int] = []
    while not numbers or split_of(numbers) != split:
        numbers = [rng.randint(4, 9) for _ in range(4)]
    task = Task(
        id=f"{split}/{seed}/{i}",
        prompt="+".join(map(str, numbers)) + "=?",
        answer=f"{sum(numbers):02d}",
        demonstration=answer(numbers, "steps", [False] * 3),
        columns={"numbers": numbers},
    )
    return task, rng
