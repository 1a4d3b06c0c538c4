"""Texts for PretrainZero small: "dbfa=3 it QX", with one trivial, one inferable and one random
span.

"3" is the position of the first letter in the alphabet (counted from 0), "it" occurs in every text,
and the capital letters are random. No text occurs twice, so held-out texts were never read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rlcore.errors import TaskError
from rlcore.tasks.corpus.prepare import Prepared
from rlcore.tasks.corpus.spans import predict_task
from rlcore.tasks.corpus.template import fill
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

NUM_TEXTS = 4_000
KINDS = ("trivial", "inferable", "noise")
WORD = "it"
SMALL = "abcdefghij"
LARGE = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def blanks() -> Iterator[str]:
    """Four random small letters, the digit of the first, a fixed word, and two random capitals."""
    rng = random.Random(0)
    for number in rng.sample(range(10**4), NUM_TEXTS):
        letters = "".join(SMALL[number // 10**k % 10] for k in range(4))
        digit = SMALL.index(letters[0])
        capitals = "".join(rng.choices(LARGE, k=2))
        yield f"{letters}={digit} {WORD} {capitals}"


def span_of(text: str, kind: str) -> str:
    """The span of a text that is of this kind.

    >>> [span_of("dbfa=3 it QX", kind) for kind in KINDS]
    ['it', '3', 'QX']
    """
    left, word, right = text.split()
    return {"trivial": word, "inferable": left[-1], "noise": right}[kind]


def blank_demonstrations(
    prepared: Prepared,
    *,
    mask: str,
    predict: str,
    right: float = 0.45,
    mask_tag: str = "mask",
    tag: str = "span",
) -> Sequence[Task]:
    """Two demonstrations per text: one hides a span, one guesses a hidden span; the kinds are
    equally frequent.

    mask, predict: the two prompts, with {text}. A trivial guess is right, an inferable one in a
    fraction `right` of the demonstrations, and noise is guessed at random."""

    def make(i: int) -> Task:
        row = prepared.table[i // 2]
        text = row["text"]
        id = f"{row['id']}/{i % 2}"
        rng = random.Random(id)
        kind = rng.choice(KINDS)
        span = span_of(text, kind)
        if i % 2 == 0:
            return Task(
                id=id,
                prompt=fill(mask, text=text),
                category="mask",
                demonstration=f"<{mask_tag}>{span}</{mask_tag}>",
            )
        guess = span
        if kind == "inferable" and rng.random() >= right:
            guess = rng.choice("0123456789".replace(span, ""))
        elif kind == "noise":
            guess = "".join(rng.choices(LARGE, k=2))
        task = _guess_task(id, text, kind, predict)
        return replace(task, demonstration=f"<{tag}>{guess}</{tag}>")

    return LazyTasks(2 * len(prepared.table), make)


def blank_guesses(
    prepared: Prepared, *, kind: str, predict: str, tag: str = "span"
) -> Sequence[Task]:
    """Guess the span of this kind in each text; of kind "any", one of the three by chance."""

    def make(i: int) -> Task:
        row = prepared.table[i]
        chosen = random.Random(row["id"]).choice(KINDS) if kind == "any" else kind
        task = _guess_task(row["id"], row["text"], chosen, predict)
        return replace(task, demonstration=f"<{tag}>{task.answer}</{tag}>")

    return LazyTasks(len(prepared.table), make)


def _guess_task(id: str, text: str, kind: str, predict: str) -> Task:
    task = predict_task(id, text, span_of(text, kind), prompt=predict)
    if task is None:
        raise TaskError(
            f"{text!r} has no span of kind {kind!r}: this form is for the texts of `blanks`"
        )
    return task
