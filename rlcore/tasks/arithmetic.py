"""Sums with worked steps, made on the spot: a task set that needs no data, no network and no large model.

    prompt "7+15+4=?"   demonstration "7+15=22;22+4=26"   answer "26"   category "3-terms"   column level 3

With `mistakes` above 0 the demonstrations come from a weak teacher who, in that share of them, forgets a carry in the last
step, or in one drawn evenly from all steps, and reckons on with the wrong result: the model that imitates them learns the
mistake, and a verifier can unlearn it. Where `mistakes` is the chance of each step by itself, long sums rarely come out right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from hashlib import blake2b
from string import ascii_lowercase
from typing import Any, Literal

from rlcore.errors import TaskError, brief
from rlcore.tasks.lazy import LazyTasks, check_size
from rlcore.types import Task

HELD_OUT_ONE_IN = 8
MOST_PARTS = 1000
"""Terms of a sum, and letters before a step."""
_TRIES = 1000


def arithmetic(
    *,
    split: Literal["train", "heldout"] = "train",
    size: int = 100_000,
    seed: int = 0,
    terms: Sequence[int] = (3,),
    max_number: int = 19,
    mistakes: float = 0.0,
    mistaken_step: Literal["last", "any", "each"] = "last",
    order: Literal["given", "any"] = "given",
    letters: int = 0,
) -> Sequence[Task]:
    """Sums of `terms` numbers (one of the counts, drawn evenly), each from 1 to `max_number`.

    Task i is a function of (seed, split, i) and the settings. A problem belongs to "heldout" if the hash of its sorted
    numbers falls into one bucket of eight, so no seed or size can put a held-out problem, or a reordering of one, into
    "train". mistakes: probability that the result of a demonstration's `mistaken_step` (of each step, independently, where that
    is "each") is 10 too small; it never goes below 0, so results under 10 are always right. order: the demonstration adds the
    numbers as they stand, or in an order drawn evenly, so that a problem has many right answers. letters: each step begins with
    so many letters drawn evenly and a colon ("kq:7+15=22"), words that change nothing. Raises `TaskError` for settings that give
    no such problem.
    """
    _check(split, size, terms, max_number, mistakes, mistaken_step, order, letters)
    counts = tuple(terms)

    def draw(i: int) -> tuple[list[int], random.Random]:
        rng = random.Random(f"{seed}/{split}/{i}")
        return _draw(rng, counts, max_number, held_out=split == "heldout"), rng

    def make(i: int) -> Task:
        numbers, rng = draw(i)
        mistaken = _mistaken(rng, len(numbers) - 1, mistakes, mistaken_step)
        shown = rng.sample(numbers, len(numbers)) if order == "any" else numbers
        return Task(
            id=f"arithmetic/{split}/{seed}/{i}",
            prompt="+".join(map(str, numbers)) + "=?",
            answer=str(sum(numbers)),
            category=_category(len(numbers)),
            demonstration=worked(shown, mistaken, _free(rng, letters)),
            columns={"level": len(numbers)},
        )

    def column(name: str) -> list[Any] | None:
        if name not in ("category", "level"):
            return None
        is_one = len(set(counts)) == 1
        drawn = [counts[0]] * size if is_one else [len(draw(i)[0]) for i in range(size)]
        return drawn if name == "level" else list(map(_category, drawn))

    make(0)  # settings without a problem for this split are reported now
    return LazyTasks(size, make, column=column)


def _check(
    split: str,
    size: int,
    terms: Sequence[int],
    max_number: int,
    mistakes: float,
    mistaken_step: str,
    order: str,
    letters: int,
) -> None:
    if split not in ("train", "heldout"):
        raise TaskError(f"arithmetic has no split {split!r}: choose 'train' or 'heldout'")
    if size < 1 or not terms or min(terms) < 2 or max_number < 1 or not 0 <= mistakes <= 1:
        raise TaskError(
            f"arithmetic needs size >= 1, terms of 2 or more, max_number >= 1 and mistakes from 0 to 1, "
            f"got size={size}, terms={tuple(terms)}, max_number={max_number}, mistakes={mistakes}"
        )
    if max(terms) > MOST_PARTS or not 0 <= letters <= MOST_PARTS:
        raise TaskError(
            f"arithmetic takes up to {MOST_PARTS} terms and letters, got terms={brief(terms)} "
            f"and letters={brief(letters)}"
        )
    check_size("arithmetic", size, max(terms))
    if mistaken_step not in ("last", "any", "each"):
        raise TaskError(
            f"arithmetic.mistaken_step is {mistaken_step!r}: choose 'last', 'any' or 'each'"
        )
    if order not in ("given", "any"):
        raise TaskError(f"arithmetic.order is {order!r}: choose 'given' or 'any'")


def _category(terms: int) -> str:
    return f"{terms}-terms"


def is_held_out(numbers: Sequence[int]) -> bool:
    """Whether a sum of these numbers, in any order, belongs to the held-out split."""
    digest = blake2b("+".join(map(str, sorted(numbers))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def _draw(
    rng: random.Random, counts: Sequence[int], max_number: int, *, held_out: bool
) -> list[int]:
    for _ in range(_TRIES):
        numbers = [rng.randint(1, max_number) for _ in range(rng.choice(counts))]
        if is_held_out(numbers) == held_out:
            return numbers
    raise TaskError(
        f"no sum of {counts} numbers up to {max_number} was found for the {'heldout' if held_out else 'train'} split "
        f"in {_TRIES} draws: allow larger numbers or more terms"
    )


def _mistaken(rng: random.Random, steps: int, mistakes: float, which: str) -> set[int]:
    """Steps, from 1, in which the teacher forgets the carry."""
    if which == "each":
        return {step for step in range(1, steps + 1) if rng.random() < mistakes}
    if rng.random() >= mistakes:
        return set()
    return {rng.randint(1, steps) if which == "any" else steps}


def _free(rng: random.Random, letters: int) -> Callable[[], str]:
    return lambda: "".join(rng.choices(ascii_lowercase, k=letters)) + ":" if letters else ""


def worked(
    numbers: Sequence[int], mistaken: Collection[int], begin: Callable[[], str] = str
) -> str:
    """The steps of a sum, each after what `begin` gives; in those `mistaken`, from 1, a carry is forgotten."""
    partial, steps = numbers[0], []
    for position, number in enumerate(numbers[1:], start=1):
        total = partial + number
        if position in mistaken and total >= 10:
            total -= 10
        steps.append(f"{begin()}{partial}+{number}={total}")
        partial = total
    return ";".join(steps)
