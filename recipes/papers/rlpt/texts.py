r"""Texts for RLPT small: accounts in paragraphs, "A 7\n\nB 15\n\nC 4\n\nAll 26\n\nRest 19" (Rest:
all but A).

No text occurs twice, in any order of its numbers, so held-out texts were never read.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

from rlcore.errors import TaskError
from rlcore.tasks.arithmetic import worked
from rlcore.tasks.corpus.prepare import Prepared
from rlcore.tasks.corpus.targets import segment_tasks
from rlcore.tasks.corpus.template import fill
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

LARGEST = 23
PARAGRAPH = "\n\n"


def ledgers() -> Iterator[str]:
    """Accounts. The line All is the sum of the lines before it, or of the lines A and Rest."""
    for a, b, c in _triples():
        yield f"A {a}\n\nB {b}\n\nC {c}\n\nAll {a + b + c}\n\nRest {b + c}"


def other_ledgers() -> Iterator[str]:
    """Accounts of another rule, of which the cold start knows nothing: the line All leaves out B, the Rest."""
    for a, b, c in _triples():
        yield f"A {a}\n\nB {b}\n\nC {c}\n\nAll {a + c}\n\nRest {b}"


def ledger_demonstrations(
    prepared: Prepared, *, asks: str, segments: Mapping[str, Any], mistakes: float = 0.6
) -> Sequence[Task]:
    """Four demonstrations per ledger: the whole text, the sum after the prompt `asks`, and twice
    the line All.

    The last three are worked in steps; the line All is asked for as the corpus form `segments` does
    with these settings. In a fraction `mistakes` of the worked ones the last step forgets a carry.
    """
    texts = prepared.table["text"]
    lines = segment_tasks(prepared, **segments)
    sums = ledger_sums(prepared, asks=asks)
    if len(lines) != len(texts):
        raise TaskError(
            "ledger_demonstrations needs the line All of each ledger as its only target: "
            "set keep.target_chars to 5"
        )
    tag = segments.get("tag", "next")

    def make(i: int) -> Task:
        row, kind = divmod(i, 4)
        if kind == 0:
            return _text_task(sums[row].id, texts[row])
        task = sums[row] if kind == 1 else lines[row]
        a, b, c, _, rest = (int(line.split()[1]) for line in texts[row].split("\n\n"))
        numbers = [rest, a] if task.category == "msr" else [a, b, c]
        forgets = random.Random(f"{task.id}/{kind}").random() < mistakes
        last_step = len(numbers) - 1
        steps = worked(numbers, {last_step} if forgets else ())
        if kind == 1:
            return replace(task, demonstration=steps)
        total = steps.rpartition("=")[2]
        return replace(task, demonstration=f"{steps}<{tag}>All {total}</{tag}>")

    return LazyTasks(4 * len(texts), make)


def ledger_sums(prepared: Prepared, *, asks: str, at_once: bool = False) -> Sequence[Task]:
    """The sum of the first three lines of each ledger, asked for by the prompt `asks` with
    {context}.

    The demonstration is worked in steps. With `at_once` the answer is the line All as the text has
    it, without steps."""

    def make(i: int) -> Task:
        row = prepared.table[i]
        context, _, rest = row["text"].partition("All ")
        numbers = [int(line.split()[1]) for line in context.strip().split("\n\n")]
        total = str(sum(numbers))
        return Task(
            id=f"{row['id']}/sum",
            prompt=fill(asks, context=context),
            answer=f"All {rest.partition(PARAGRAPH)[0]}" if at_once else total,
            category="sum",
            demonstration=None if at_once else worked(numbers, ()),
        )

    return LazyTasks(len(prepared.table), make)


def _text_task(id: str, text: str) -> Task:
    return Task(id=f"{id}/text", prompt=text[:2], category="text", demonstration=text[2:])


def _triples() -> list[tuple[int, int, int]]:
    """All combinations of three numbers from 1 to `LARGEST`, each once and in one order."""
    rng = random.Random(0)
    triples = []
    for numbers in combinations_with_replacement(range(1, LARGEST + 1), 3):
        a, b, c = rng.sample(numbers, 3)
        triples.append((a, b, c))
    rng.shuffle(triples)
    return triples
