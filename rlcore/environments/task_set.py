"""Task sets that are drawn from a seed, with a held-out split that no seed or size can reach from "train"."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Literal, Protocol, TypeVar

from rlcore.errors import TaskError
from rlcore.tasks.lazy import LazyTasks, check_size
from rlcore.types import Task

HELD_OUT_ONE_IN = 8
_TRIES = 1000

Split = Literal["train", "heldout"]


class Problem(Protocol):
    """What is drawn before a task is made of it."""

    @property
    def key(self) -> str:
        """Equal for problems that are one and the same to a model."""

    @property
    def category(self) -> str:
        """Its difficulty in words."""

    @property
    def level(self) -> int:
        """Its difficulty as a number, for curricula; the column `level` of the task."""


Drawn = TypeVar("Drawn", bound=Problem)


def is_held_out(key: str) -> bool:
    """Whether the problems with this key belong to the held-out split: one key in 8, by its hash."""
    digest = blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def task_set(
    owner: str,
    draw: Callable[[random.Random], Drawn],
    make: Callable[[str, Drawn, random.Random], Task],
    *,
    split: Split,
    size: int,
    seed: int,
) -> Sequence[Task]:
    """`size` tasks; task i is a function of (seed, split, i) and of what the two functions do.

    draw: a problem of either split; it is called until one of the right split comes.
    make: (task id, problem, random numbers) -> the task but its category and level. Raises `TaskError`
    where `draw` gives no problem of this split, and for other bad settings.
    """
    if split not in ("train", "heldout"):
        raise TaskError(f"{owner} has no split {split!r}: choose 'train' or 'heldout'")
    if size < 1:
        raise TaskError(f"{owner} needs size >= 1, not {size}")
    check_size(owner, size)

    def drawn(i: int) -> tuple[Drawn, random.Random]:
        rng = random.Random(f"{seed}/{split}/{i}")
        for _ in range(_TRIES):
            problem = draw(rng)
            if is_held_out(problem.key) == (split == "heldout"):
                return problem, rng
        raise TaskError(
            f"{owner} drew {_TRIES} problems and none for its {split} split: "
            "allow larger or more different ones"
        )

    def task(i: int) -> Task:
        problem, rng = drawn(i)
        plain = make(f"{owner}/{split}/{seed}/{i}", problem, rng)
        columns = {**plain.columns, "level": problem.level}
        return replace(plain, category=problem.category, columns=columns)

    def column(name: str) -> list[Any] | None:
        if name not in ("category", "level"):
            return None
        return [getattr(drawn(i)[0], name) for i in range(size)]

    task(0)  # bad settings are reported now
    return LazyTasks(size, task, column=column)


def check_share(owner: str, name: str, value: float) -> None:
    """Raise `TaskError` for a probability outside 0 to 1."""
    if not 0 <= value <= 1:
        raise TaskError(f"{owner}.{name} is {value}, but must be from 0 to 1")
