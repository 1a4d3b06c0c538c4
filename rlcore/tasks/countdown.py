"""Countdown: reach a target from given numbers, each used once. Made on the spot, with a worked solution.

    prompt "3 5 8>9?"   demonstration "8-5=3;3*3=9"   columns numbers [3, 5, 8], target 9   category "3-numbers"

Every problem has a solution, because it is made from one. The reward `countdown` checks any other just as well. With `mistakes`
above 0 that share of the demonstrations joins all the numbers, each step right, without a look at the target: a model that
imitates them finds a solution now and then, and a verifier can teach it to look.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

from rlcore.errors import TaskError
from rlcore.tasks.lazy import LazyTasks, check_size
from rlcore.types import Task

HELD_OUT_ONE_IN = 8
OPERATORS = "+-*/"
MOST_NUMBERS = 50
"""Numbers of a problem."""
_TRIES = 2000


def countdown(
    *,
    split: Literal["train", "heldout"] = "train",
    size: int = 100_000,
    seed: int = 0,
    numbers: Sequence[int] = (3, 4),
    max_number: int = 20,
    max_target: int = 100,
    operators: str = OPERATORS,
    mistakes: float = 0.0,
) -> Sequence[Task]:
    """Problems with so many numbers (one of the counts, drawn evenly) up to `max_number`, and a target up to `max_target`.

    Task i is a function of (seed, split, i) and the settings. A problem belongs to "heldout" if the hash of its sorted numbers
    and target falls into one bucket of eight. No number on the way of the worked solution is negative, broken or above
    `max_target`; it uses only `operators`. mistakes: probability that the demonstration makes some other number, or the target
    by chance. Raises `TaskError` for settings that give no such problem.
    """
    _check(split, size, numbers, max_number, max_target, operators, mistakes)
    counts = tuple(numbers)

    def draw_count(i: int) -> tuple[int, random.Random]:
        rng = random.Random(f"{seed}/{split}/{i}")
        return rng.choice(counts), rng

    def make(i: int) -> Task:
        count, rng = draw_count(i)
        given, target, steps = _draw(
            rng, count, max_number, max_target, operators, split == "heldout"
        )
        shown = steps
        if rng.random() < mistakes:
            tries = (_combine(rng, list(given), max_target, operators) for _ in range(_TRIES))
            shown = next((found[1] for found in tries if found), steps)
        return Task(
            id=f"countdown/{split}/{seed}/{i}",
            prompt=f"{' '.join(map(str, given))}>{target}?",
            answer=";".join(steps),
            category=_category(count),
            demonstration=";".join(shown),
            columns={"numbers": given, "target": target, "level": len(given)},
        )

    def column(name: str) -> list[Any] | None:
        if name not in ("category", "level"):
            return None
        drawn = [draw_count(i)[0] for i in range(size)]
        return drawn if name == "level" else list(map(_category, drawn))

    make(0)  # settings without a problem for this split are reported now
    return LazyTasks(size, make, column=column)


def _check(
    split: str,
    size: int,
    numbers: Sequence[int],
    max_number: int,
    max_target: int,
    operators: str,
    mistakes: float,
) -> None:
    if split not in ("train", "heldout"):
        raise TaskError(f"countdown has no split {split!r}: choose 'train' or 'heldout'")
    if (
        size < 1
        or not numbers
        or min(numbers) < 2
        or max(numbers) > MOST_NUMBERS
        or min(max_number, max_target) < 1
        or not set(operators) <= set(OPERATORS)
    ):
        raise TaskError(
            f"countdown needs size >= 1, numbers from 2 to {MOST_NUMBERS}, max_number and max_target >= 1 and operators among {OPERATORS}, "
            f"got {size}, {tuple(numbers)}, {max_number}, {max_target} and {operators!r}"
        )
    check_size("countdown", size, max(numbers))
    if not 0 <= mistakes <= 1:
        raise TaskError(f"countdown.mistakes is {mistakes}, but must be from 0 to 1")


def _category(count: int) -> str:
    return f"{count}-numbers"


def is_held_out(numbers: Sequence[int], target: int) -> bool:
    """Whether this problem, with its numbers in any order, belongs to the held-out split."""
    digest = blake2b(f"{sorted(numbers)}>{target}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def _draw(
    rng: random.Random,
    count: int,
    max_number: int,
    max_target: int,
    operators: str,
    held_out: bool,
) -> tuple[list[int], int, list[str]]:
    for _ in range(_TRIES):
        given = [rng.randint(1, max_number) for _ in range(count)]
        solved = _combine(rng, list(given), max_target, operators)
        if solved and is_held_out(given, solved[0]) == held_out:
            return given, *solved
    raise TaskError(
        f"no problem of {count} numbers up to {max_number} with a target up to {max_target} by {operators} was found in {_TRIES} "
        "draws: allow larger targets or more operators"
    )


def _combine(
    rng: random.Random, pool: list[int], max_target: int, operators: str
) -> tuple[int, list[str]] | None:
    """Join two numbers at a time until one is left: the target, and the steps; None if this order leads nowhere."""
    steps = []
    while len(pool) > 1:
        a, b = (pool.pop(rng.randrange(len(pool))) for _ in range(2))
        results = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b and a % b == 0 else -1}
        possible = [operator for operator in operators if 0 < results[operator] <= max_target]
        if not possible:
            return None
        operator = rng.choice(possible)
        steps.append(f"{a}{operator}{b}={results[operator]}")
        pool.append(results[operator])
    return (pool[0], steps) if pool[0] <= max_target else None
