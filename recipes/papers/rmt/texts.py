"""Texts for reinforcement mid-training small: "3591 an 3 bo 5 cy 9 ax 4 bx 6.", tokens of three
difficulties.

Letters are easy, digits that repeat one of the first four are medium, and digits one above one of
them are hard. No text occurs twice, so held-out texts were never read."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rlcore.tasks.corpus.positions import position_tasks
from rlcore.tasks.corpus.prepare import Prepared
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_TEXTS = 4_000
DIGITS = "0123456789"
LETTERS = "abcnoxy."
FRAC_RIGHT = {"easy": 0.9, "medium": 0.6, "hard": 0.4}
"""Category -> fraction of the demonstrations that say the right token."""
TEXT_PROMPT_CHARS = 5


def rolls() -> Iterator[str]:
    """Four random digits, then what follows from them."""
    rng = random.Random(0)
    for number in rng.sample(range(10**4), NUM_TEXTS):
        a, b, c, d = (number // 10**k % 10 for k in range(4))
        yield f"{a}{b}{c}{d} an {a} bo {b} cy {c} ax {(a + 1) % 10} bx {(b + 1) % 10}."


def roll_tokens(
    prepared: Prepared,
    *,
    tokenizer: PreTrainedTokenizerBase,
    positions: Mapping[str, Any],
    only: str | None = None,
    demonstrations: bool = False,
    texts: float = 0.1,
    tag: str = "next",
) -> Sequence[Task]:
    """Next tokens of rolls in the categories easy, medium and hard; `positions` as in the corpus
    form of that name.

    A demonstration thinks by repeating its guess 1 to 14 times, whatever budget (10 to 40) the
    prompt states, and is right as often as `FRAC_RIGHT` says. A fraction `texts` of the
    demonstrations is the whole text."""

    def entropies(sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [_difficulties(tokenizer.decode(ids)) for ids in sequences]

    tasks = position_tasks(
        prepared, tokenizer=tokenizer, entropies=entropies, min_context=5, **positions
    )
    chosen = range(len(tasks))
    if only:
        chosen = [i for i in chosen if tasks[i].category == only]

    def make(i: int) -> Task:
        task = tasks[chosen[i]]
        if demonstrations:
            return _demonstrated(task, texts, tag)
        answer = f"<{tag}>{task.answer}</{tag}>" if tag else task.answer
        return replace(task, demonstration=answer)

    return LazyTasks(len(chosen), make)


def _text_task(id: str, text: str) -> Task:
    return Task(
        id=f"{id}/text",
        prompt=text[:TEXT_PROMPT_CHARS],
        category="text",
        demonstration=text[TEXT_PROMPT_CHARS:],
    )


def _demonstrated(task: Task, texts: float, tag: str) -> Task:
    rng = random.Random(task.id)
    if rng.random() < texts:
        return _text_task(task.id, str(task.columns["text"]))
    guess = str(task.answer)
    if rng.random() >= FRAC_RIGHT[task.category]:
        alphabet = LETTERS if task.category == "easy" else DIGITS
        guess = rng.choice(alphabet.replace(guess, ""))
    thought = f"{guess};" * rng.randint(1, 14)
    budget = rng.randint(10, 40)
    return replace(
        task,
        prompt=f"{task.prompt}[{budget}]",
        demonstration=f"{thought}<{tag}>{guess}</{tag}>",
    )


def _difficulties(text: str) -> list[float]:
    """0, 1 or 2 for every character of a roll except the first, in place of a model's entropy."""
    first_hard = text.index("ax ")
    difficulties = []
    for position, character in enumerate(text[1:], start=1):
        if not character.isdigit():
            difficulties.append(0.0)
        elif position < first_hard:
            difficulties.append(1.0)
        else:
            difficulties.append(2.0)
    return difficulties
