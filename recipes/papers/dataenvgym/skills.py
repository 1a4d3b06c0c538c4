"""Eight skills of one line, and data for each of them on request.

The training set is what a teacher ordered: `{add: 120, sort: 40}` are 120 sums and 40 lists to
sort. Validation and test problems are told apart from training problems by a hash of their prompt,
so no order can bring one of them into the training data.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Literal

from rlcore.errors import TaskError
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

Split = Literal["train", "validation", "test"]
Problem = tuple[str, str]
"""Prompt and answer."""


def _letters(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=n))


def _digits(rng: random.Random, n: int) -> str:
    return "".join(rng.choices(string.digits, k=n))


def _copy(rng: random.Random) -> Problem:
    text = _letters(rng, 3)
    return text, text


def _largest(rng: random.Random) -> Problem:
    text = _digits(rng, 4)
    return text, max(text)


def _count(rng: random.Random) -> Problem:
    text = "".join(rng.choices("ab", k=6))
    return text, str(text.count("a"))


def _reverse(rng: random.Random) -> Problem:
    text = _letters(rng, 4)
    return text, text[::-1]


def _sort(rng: random.Random) -> Problem:
    text = _digits(rng, 4)
    return text, "".join(sorted(text))


def _next(rng: random.Random) -> Problem:
    text = "".join(rng.choices(string.ascii_lowercase[:-1], k=4))
    return text, "".join(chr(ord(letter) + 1) for letter in text)


def _add(rng: random.Random) -> Problem:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return f"{a}+{b}", str(a + b)


def _multiply(rng: random.Random) -> Problem:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return f"{a}*{b}", str(a * b)


SKILLS: dict[str, Callable[[random.Random], Problem]] = {
    "copy": _copy,
    "largest": _largest,
    "count": _count,
    "reverse": _reverse,
    "sort": _sort,
    "next": _next,
    "add": _add,
    "multiply": _multiply,
}


def split_of(skill: str, text: str) -> Split:
    """Where a problem belongs: one in 8 to validation, one in 8 to the test set."""
    digest = blake2b(f"{skill} {text}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") % 8
    return ("validation", "test")[share] if share < 2 else "train"


def problems(counts: Mapping[str, int], *, split: Split, seed: int) -> Sequence[Task]:
    """`counts[skill]` problems of each skill with their answers, as demonstrations too.

    Problem i of a skill is the same for any counts, so a larger order only adds data. Raises
    `TaskError` for an unknown skill or an empty order.
    """
    unknown = sorted(set(counts) - set(SKILLS))
    if unknown:
        raise TaskError(f"there is no skill {unknown[0]!r}; there are {', '.join(SKILLS)}")
    order = [(skill, i) for skill in SKILLS for i in range(counts.get(skill, 0))]
    if not order:
        raise TaskError("no problems were ordered: counts has no number above 0")

    def make(position: int) -> Task:
        skill, i = order[position]
        rng = random.Random(f"{seed}/{split}/{skill}/{i}")
        text, answer = SKILLS[skill](rng)
        while split_of(skill, text) != split:
            text, answer = SKILLS[skill](rng)
        return Task(
            id=f"{skill}/{split}/{seed}/{i}",
            prompt=f"{skill} {text}>",
            answer=answer,
            category=skill,
            demonstration=answer,
        )

    return LazyTasks(len(order), make)


def equally(size: int, *, split: Split, seed: int) -> Sequence[Task]:
    """`size` problems of every skill."""
    return problems(dict.fromkeys(SKILLS, size), split=split, seed=seed)
