"""Texts for RLP small: "314024~0.", six digits and a last one that follows from them or is random.

After "~" the last digit is the one after the sixth when counting from 0 to 4 in a circle; after "#"
it is random. No text occurs twice, so held-out texts were never read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from rlcore.tasks.corpus.prepare import Prepared
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

DIGITS = 5
NUM_TEXTS = 15_000
MARKS = {"rule": "~", "chance": "#"}
"""Category -> the mark before the last digit."""

RIGHT = 0.474
FOLLOWED = 0.76
"""Fraction of right thoughts in the demonstrations, and how often the digit is the one thought of.

A model of these demonstrations gains nothing by thinking yet, since
RIGHT log(FOLLOWED / 0.2) + (1 - RIGHT) log((1 - FOLLOWED) / 4 / 0.2) = 0.
"""


def endings() -> Iterator[str]:
    """Six digits below five, a mark, and a digit: by the rule and by chance in turn."""
    rng = random.Random(0)
    numbers = rng.sample(range(DIGITS**6), NUM_TEXTS)
    for i, number in enumerate(numbers):
        context = "".join(str(number // DIGITS**k % DIGITS) for k in range(6))
        if i % 2:
            yield f"{context}{MARKS['chance']}{rng.randrange(DIGITS)}."
        else:
            yield f"{context}{MARKS['rule']}{next_digit(context)}."


def thoughts(
    prepared: Prepared,
    *,
    only: Literal["rule", "chance"] | None = None,
    demonstrations: bool = False,
) -> Sequence[Task]:
    """One task per text: think after "<" until ">", then the digit comes.

    With `demonstrations` there are two tasks per text, with a thought and without one. They do not
    say which digit comes: without a thought, and after "#", it is drawn uniformly. After "~" the
    thought is the right digit in `RIGHT` of the demonstrations, and the digit is the one thought of
    in `FOLLOWED` of them."""
    rows = []
    for i, text in enumerate(prepared.table["text"]):
        if only is None or MARKS[only] in text:
            rows.append(i)

    def make(i: int) -> Task:
        row = prepared.table[rows[i // 2 if demonstrations else i]]
        without_thought = demonstrations and i % 2 == 1
        return ending_task(row["id"], row["text"], demonstrations, without_thought)

    return LazyTasks(len(rows) * (2 if demonstrations else 1), make)


def ending_task(id: str, text: str, demonstrated: bool, without_thought: bool) -> Task:
    """The task of one text; its answer is the last digit, or in a demonstration the digit shown."""
    context = text[:-2]
    digit = text[-2]
    category = "rule" if MARKS["rule"] in text else "chance"
    demonstration = None
    if demonstrated:
        rng = random.Random(id)
        thought = str(rng.randrange(DIGITS))
        digit = str(rng.randrange(DIGITS))
        if category == "rule" and not without_thought:
            thought = right_or_other(rng, next_digit(context[:-1]), RIGHT)
            digit = right_or_other(rng, thought, FOLLOWED)
        demonstration = digit if without_thought else f"{thought}>{digit}"
    return Task(
        id=f"{id}/plain" if without_thought else id,
        prompt=context if without_thought else f"{context}<",
        answer=digit,
        category=category,
        demonstration=demonstration,
        columns={"context": context, "continuation": digit},
    )


def next_digit(context: str) -> str:
    return str((int(context[-1]) + 1) % DIGITS)


def right_or_other(rng: random.Random, right: str, probability: float) -> str:
    """`right` with this probability, else one of the other digits."""
    if rng.random() < probability:
        return right
    return rng.choice("01234".replace(right, ""))
