"""Texts made by rule, and what RL on plain text asks about them: for trying its methods without data.

    endings   "314024~0.": the digit that follows the last one when counting from 0 to 4 in a circle; after "#" one by chance
    ledgers   "A 7", "B 15", "C 4", "All 26", "Rest 19", in paragraphs (Rest: all but A)
    blanks    "dbfa=3 it QX": the place of the first letter in the alphabet, a word that is always there, letters by chance
    rolls     "3591 an 3 bo 5 cy 9 ax 4 bx 6.": words, digits said before, and digits one up from one said before

As a recipe's path: `recipes.papers.stories:endings`. Each text is there once, so what is held out was never read. Forms of demonstrations
make demonstrations for a cold start: for a model as it might come from pre-training, which does what is asked some of the time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING, Any, Literal

from rlcore.errors import TaskError
from rlcore.tasks.arithmetic import worked
from rlcore.tasks.corpus.positions import position_tasks
from rlcore.tasks.corpus.prepare import Prepared
from rlcore.tasks.corpus.spans import predict_task
from rlcore.tasks.corpus.targets import segment_tasks
from rlcore.tasks.corpus.template import fill
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DIGITS = 5
MARKS = {"rule": "~", "chance": "#"}
"""What an ending's digit follows from -> the sign before it."""
RIGHT, HEEDED = 0.474, 0.76
"""Share of right thoughts in the demonstrations, and how often what is thought comes: with them thinking gains nothing yet, since
RIGHT log(HEEDED / 0.2) + (1 - RIGHT) log((1 - HEEDED) / 4 / 0.2) = 0."""
ENDINGS, BLANKS, ROLLS, LARGEST = 15_000, 4_000, 4_000, 23
KINDS = ("trivial", "inferable", "noise")
WORD = "it"
SMALL, LARGE = "abcdefghij", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def endings() -> Iterator[str]:
    """Six digits below five, a mark, and a digit: by the rule or by chance, every second text each."""
    rng = random.Random(0)
    for place, number in enumerate(rng.sample(range(DIGITS**6), ENDINGS)):
        context = "".join(str(number // DIGITS**k % DIGITS) for k in range(6))
        if place % 2:
            yield f"{context}{MARKS['chance']}{rng.randrange(DIGITS)}."
        else:
            yield f"{context}{MARKS['rule']}{_next(context)}."


def ledgers() -> Iterator[str]:
    """Accounts in paragraphs. The line All follows from those before it in two sums, and with the one after it in one."""
    for a, b, c in _triples(LARGEST):
        yield f"A {a}\n\nB {b}\n\nC {c}\n\nAll {a + b + c}\n\nRest {b + c}"


def blanks() -> Iterator[str]:
    """Four small letters and two large ones by chance; between them the digit of the first, and a word."""
    rng = random.Random(0)
    for number in rng.sample(range(10**4), BLANKS):
        letters = "".join(SMALL[number // 10**k % 10] for k in range(4))
        yield f"{letters}={SMALL.index(letters[0])} {WORD} {''.join(rng.choices(LARGE, k=2))}"


def rolls() -> Iterator[str]:
    """Four digits by chance, then what follows from them."""
    rng = random.Random(0)
    for number in rng.sample(range(10**4), ROLLS):
        a, b, c, d = (number // 10**k % 10 for k in range(4))
        yield f"{a}{b}{c}{d} an {a} bo {b} cy {c} ax {(a + 1) % 10} bx {(b + 1) % 10}."


def thoughts(
    prepared: Prepared,
    *,
    only: Literal["rule", "chance"] | None = None,
    demonstrations: bool = False,
) -> Sequence[Task]:
    """Of each ending: think after "<" until ">", then the digit comes. Categories "rule" and "chance".

    The demonstrations, with and without a thought in turn, do not say which digit comes. Without a thought, and by chance, it is drawn
    evenly. By the rule the thought is the right digit in `RIGHT` of the demonstrations, and the digit is the one thought of in `HEEDED`.
    """
    rows = [
        i for i, text in enumerate(prepared.table["text"]) if only is None or MARKS[only] in text
    ]

    def make(i: int) -> Task:
        row = prepared.table[rows[i // 2 if demonstrations else i]]
        text, rng = row["text"], random.Random(row["id"])
        context, digit, category = (
            text[:-2],
            text[-2],
            "rule" if MARKS["rule"] in text else "chance",
        )
        thought = None
        if demonstrations:
            thought, digit = (str(rng.randrange(DIGITS)) for _ in range(2))
            if category == "rule" and i % 2 == 0:
                thought = _one_of(rng, _next(context[:-1]), RIGHT)
                digit = _one_of(rng, thought, HEEDED)
        plain = demonstrations and i % 2 == 1
        return Task(
            id=f"{row['id']}/plain" if plain else row["id"],
            prompt=context if plain else f"{context}<",
            answer=digit,
            category=category,
            demonstration=(digit if plain else f"{thought}>{digit}") if demonstrations else None,
            columns={"context": context, "continuation": digit},
        )

    return LazyTasks(len(rows) * (2 if demonstrations else 1), make)


def account_lessons(
    prepared: Prepared, *, asks: str, segments: Mapping[str, Any], mistakes: float = 0.6
) -> Sequence[Task]:
    """Of each ledger four demonstrations: the whole text, the line All said in worked steps as the form `segments` with these settings
    asks for it (two of them), and the bare sum after `asks`. The last step of `mistakes` of the worked ones forgets a carry."""
    texts, lines, sums = (
        prepared.table["text"],
        segment_tasks(prepared, **segments),
        account_sums(prepared, asks=asks),
    )
    if len(lines) != len(texts):
        raise TaskError(
            "account_lessons ask for the line All of each ledger and no other: set keep.target_chars to 5"
        )

    def make(i: int) -> Task:
        place, kind = divmod(i, 4)
        text = texts[place]
        if kind == 0:
            return _whole(sums[place].id, text, 2)
        task = sums[place] if kind == 1 else lines[place]
        a, b, c, total, rest = (int(line.split()[1]) for line in text.split("\n\n"))
        mistaken = random.Random(f"{task.id}/{kind}").random() < mistakes
        numbers = [rest, a] if task.category == "msr" else [a, b, c]
        steps = worked(numbers, {len(numbers) - 1} if mistaken else ())
        said = steps.rpartition("=")[2]
        tag = segments.get("tag", "next")
        return replace(
            task, demonstration=steps if kind == 1 else f"{steps}<{tag}>All {said}</{tag}>"
        )

    return LazyTasks(4 * len(texts), make)


def account_sums(prepared: Prepared, *, asks: str, at_once: bool = False) -> Sequence[Task]:
    """Of each ledger the sum of its first three lines, asked for by `asks` with {context}: arithmetic to be verified.

    The demonstration is worked. `at_once`: the answer is the line that says the sum, without steps.
    """

    def make(i: int) -> Task:
        row = prepared.table[i]
        context, _, _ = row["text"].partition("All ")
        numbers = [int(line.split()[1]) for line in context.strip().split("\n\n")]
        total = str(sum(numbers))
        return Task(
            id=f"{row['id']}/sum",
            prompt=fill(asks, context=context),
            answer=f"All {total}" if at_once else total,
            category="sum",
            demonstration=None if at_once else worked(numbers, ()),
        )

    return LazyTasks(len(prepared.table), make)


def blank_lessons(
    prepared: Prepared,
    *,
    mask: str,
    predict: str,
    right: float = 0.45,
    mask_tag: str = "mask",
    tag: str = "span",
) -> Sequence[Task]:
    """Of each text a lesson that hides a span, of each kind in a third of them, and one that guesses one (prompts `mask` and
    `predict`, with {text}). A trivial guess is right, an inferable one in `right` of the demonstrations, noise is guessed by chance."""

    def make(i: int) -> Task:
        row = prepared.table[i // 2]
        text, id = row["text"], f"{row['id']}/{i % 2}"
        rng = random.Random(id)
        kind = rng.choice(KINDS)
        if i % 2 == 0:
            span = span_of(text, kind)
            return Task(
                id=id,
                prompt=fill(mask, text=text),
                category="mask",
                demonstration=f"<{mask_tag}>{span}</{mask_tag}>",
            )
        guess = span_of(text, kind)
        if kind == "inferable":
            guess = _one_of(rng, guess, right, "0123456789")
        elif kind == "noise":
            guess = "".join(rng.choices(LARGE, k=2))
        return replace(_guess(id, text, kind, predict), demonstration=f"<{tag}>{guess}</{tag}>")

    return LazyTasks(2 * len(prepared.table), make)


def blank_guesses(
    prepared: Prepared, *, kind: str, predict: str, tag: str = "span"
) -> Sequence[Task]:
    """Guess the span of this kind of each text."""

    def make(i: int) -> Task:
        row = prepared.table[i]
        task = _guess(row["id"], row["text"], kind, predict)
        return replace(task, demonstration=f"<{tag}>{task.answer}</{tag}>")

    return LazyTasks(len(prepared.table), make)


def _guess(id: str, text: str, kind: str, predict: str) -> Task:
    task = predict_task(id, text, span_of(text, kind), prompt=predict)
    if task is None:
        raise TaskError(
            f"{text!r} has no span of kind {kind!r}: these forms are for the texts `blanks`"
        )
    return task


def whole(prepared: Prepared, *, given: int) -> Sequence[Task]:
    """Next-token training: each text, its first `given` characters as the prompt and the rest to imitate."""
    return LazyTasks(
        len(prepared.table),
        lambda i: _whole(prepared.table[i]["id"], prepared.table[i]["text"], given),
    )


def span_of(text: str, kind: str) -> str:
    """The span of a blank that is of this kind.

    >>> [span_of("dbfa=3 it QX", kind) for kind in KINDS]
    ['it', '3', 'QX']
    """
    left, word, right = text.split()
    return {"trivial": word, "inferable": left[-1], "noise": right}[kind]


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
    """Next tokens of rolls: easy are letters, medium digits said before, hard those one up; `positions` as in that form.

    The demonstrations think by saying a guess one to 14 times, whatever the budget that the prompt states (10 to 40), and guess
    right in 90%, 60% and 40%. A share of them, `texts`, is the whole text.
    """

    def difficulties(sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [_difficulties(tokenizer.decode(ids)) for ids in sequences]

    tasks = position_tasks(
        prepared, tokenizer=tokenizer, entropies=difficulties, min_context=5, **positions
    )
    chosen = (
        [i for i in range(len(tasks)) if tasks[i].category == only] if only else range(len(tasks))
    )

    def make(i: int) -> Task:
        task = tasks[chosen[i]]
        return _said_again(task, texts, tag) if demonstrations else _tagged(task, tag)

    return LazyTasks(len(chosen), make)


def _tagged(task: Task, tag: str) -> Task:
    return replace(task, demonstration=f"<{tag}>{task.answer}</{tag}>" if tag else task.answer)


def _said_again(task: Task, texts: float, tag: str) -> Task:
    rng = random.Random(task.id)
    if rng.random() < texts:
        return _whole(task.id, str(task.columns["text"]), 5)
    letters = "abcnoxy." if task.category == "easy" else "0123456789"
    guess = _one_of(
        rng, str(task.answer), {"easy": 0.9, "medium": 0.6, "hard": 0.4}[task.category], letters
    )
    thought, budget = f"{guess};" * rng.randint(1, 14), rng.randint(10, 40)
    return replace(
        task, prompt=f"{task.prompt}[{budget}]", demonstration=f"{thought}<{tag}>{guess}</{tag}>"
    )


def _whole(id: str, text: str, given: int) -> Task:
    return Task(id=f"{id}/text", prompt=text[:given], category="text", demonstration=text[given:])


def _difficulties(text: str) -> list[float]:
    """0, 1 or 2 for every character of a roll but the first, as an entropy might say."""
    ups = text.index("ax ")
    return [
        0.0 if not letter.isdigit() else 1.0 if place < ups else 2.0
        for place, letter in enumerate(text)
    ][1:]


def _next(context: str) -> str:
    return str((int(context[-1]) + 1) % DIGITS)


def _one_of(rng: random.Random, right: str, share: float, letters: str = "01234") -> str:
    """`right` with this probability, else one of the other letters."""
    return right if rng.random() < share else rng.choice(letters.replace(right, ""))


def _triples(largest: int) -> list[tuple[int, int, int]]:
    """Every three numbers from 1 to `largest` once, in one order: what is held out is nowhere else in another order."""
    rng = random.Random(0)
    found = [
        rng.sample(chosen, 3) for chosen in combinations_with_replacement(range(1, largest + 1), 3)
    ]
    rng.shuffle(found)
    return [(a, b, c) for a, b, c in found]
