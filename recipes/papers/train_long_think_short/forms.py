"""Sums of three numbers that can be answered in three lengths, by a teacher who is careless when in a hurry.

    prompt "7+8+4=?[15]"    the number in brackets is the budget

    form      answer                             tokens with the end   last carry forgotten
    checked   "7+8=15;15+4=19;8+4=12;7+12=19"    30                    0.4
    steps     "7+8=15;15+4=19"                   15                    0.7
    last      "15+4=19"                          8                     0.97

All results have two digits, so a form has one length. Whoever forgets the carry writes a result that is 10 too small, and agrees
with it in the check. A lesson takes the form nearest to its budget most of the time, and any other form otherwise.
"""

from __future__ import annotations

import random
from hashlib import blake2b
from typing import Literal

from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

Split = Literal["train", "validation", "exam"]
TOKENS = {"checked": 30, "steps": 15, "last": 8}
FORGOTTEN = {"checked": 0.4, "steps": 0.7, "last": 0.97}
BUDGETS = (6, 34)
"""Smallest and largest budget of a lesson."""


def sums(*, split: str = "train", size: int = 20_000, seed: int = 0) -> LazyTasks:
    """Problems without a budget, which the recipe's `budget_text` adds."""
    return LazyTasks(size, lambda i: _task(split, seed, i)[0])


def lessons(*, size: int = 20_000, seed: int = 0, heed: float = 0.8) -> LazyTasks:
    """Problems with a budget and a worked answer. heed: probability that the form is the one nearest to the budget."""

    def make(i: int) -> Task:
        task, rng = _task("train", seed, i)
        budget = rng.randint(*BUDGETS)
        nearest = min(TOKENS, key=lambda form: abs(TOKENS[form] - budget))
        form = nearest if rng.random() < heed else rng.choice([other for other in TOKENS if other != nearest])
        worked = answer(task.columns["numbers"], form, forgets=rng.random() < FORGOTTEN[form])
        return Task(id=task.id, prompt=f"{task.prompt}[{budget}]", answer=task.answer, demonstration=worked)

    return LazyTasks(size, make)


def answer(numbers: list[int], form: str, *, forgets: bool) -> str:
    """The worked sum in one form."""
    a, b, c = numbers
    total = a + b + c
    said = total - 10 if forgets and total >= 10 else total
    last = f"{a + b:02d}+{c}={said:02d}"
    first = f"{a}+{b}={a + b:02d};"
    return {"last": last, "steps": first + last, "checked": f"{first}{last};{b}+{c}={b + c:02d};{a}+{b + c:02d}={said:02d}"}[form]


def split_of(numbers: list[int]) -> Split:
    """By the hash of the numbers, in any order: one bucket of eight is for the exam, one for choosing settings."""
    bucket = blake2b("+".join(map(str, sorted(numbers))).encode(), digest_size=8).digest()[0] % 8
    return ("exam", "validation")[bucket] if bucket < 2 else "train"


def _task(split: str, seed: int, i: int) -> tuple[Task, random.Random]:
    rng = random.Random(f"{seed}/{split}/{i}")
    numbers = [0, 0, 0]
    while 0 in numbers or split_of(numbers) != split:
        numbers = [rng.randint(1, 9) for _ in numbers]
    task = Task(
        id=f"{split}/{seed}/{i}",
        prompt="+".join(map(str, numbers)) + "=?",
        answer=f"{sum(numbers):02d}",
        demonstration=answer(numbers, "steps", forgets=False),
        columns={"numbers": numbers},
    )
    return task, rng
