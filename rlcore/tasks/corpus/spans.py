"""Spans to mask and to guess (PretrainZero, arXiv 2512.03442): chosen by the policy or at random."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from rlcore.errors import TaskError
from rlcore.tasks.corpus.prepare import Prepared
from rlcore.tasks.corpus.template import MASK, PREDICT, check_template, fill
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

SLOT = "[MASK]"
MOST = 8
"""A span that occurs so often in its text is no mask: what it says is copied rather than inferred."""

_WORD = re.compile(r"\S+")


def hide(text: str, span: str) -> str | None:
    """The text with every occurrence of `span` hidden; None if it is no legal mask: empty, not
    verbatim, everywhere, or all.

    >>> hide("Ann met Bo. Bo left.", "Bo")
    'Ann met [MASK]. [MASK] left.'
    >>> hide("Ann met Bo.", "bo") is None
    True
    """
    if (
        not span.strip()
        or SLOT in text
        or not 0 < text.count(span) < MOST
        or span.strip() == text.strip()
    ):
        return None
    return text.replace(span, SLOT)


def predict_task(
    id: str, text: str, span: str, *, prompt: str = PREDICT, category: str = "predict"
) -> Task | None:
    """Guess the hidden span; None if the mask is not legal."""
    hidden = hide(text, span)
    if hidden is None:
        return None
    return Task(
        id=id,
        prompt=fill(prompt, text=hidden),
        answer=span.strip(),
        category=category,
        demonstration=f"<span>{span.strip()}</span>",
        columns={"text": text, "span": span},
    )


def paragraph_tasks(prepared: Prepared, *, prompt: str = MASK) -> Sequence[Task]:
    """Choose a span of each document worth hiding, category "mask". No answer: what a choice is
    worth only guessing tells.

    The column `text` holds the document; keep documents short with the corpus's max_chars.
    """
    check_template(prompt, "text")

    def make(i: int) -> Task:
        row = prepared.table[i]
        return Task(
            id=row["id"],
            prompt=fill(prompt, text=row["text"]),
            category="mask",
            columns={"text": row["text"]},
        )

    return LazyTasks(len(prepared.table), make)


def span_tasks(
    prepared: Prepared, *, prompt: str = PREDICT, max_words: int = 4, seed: int = 0
) -> Sequence[Task]:
    """Guess a span of 1 to `max_words` words of each document, chosen by chance: random masking."""
    check_template(prompt, "text")
    if max_words < 1:
        raise TaskError(f"max_words={max_words} leaves no span: give 1 or more")

    def make(i: int) -> Task:
        row = prepared.table[i]
        words = list(_WORD.finditer(row["text"]))
        rng = random.Random(f"{seed}/{row['id']}")
        for _ in range(100):
            size = rng.randint(1, min(max_words, len(words) - 1))
            first = rng.randrange(len(words) - size + 1)
            span = row["text"][words[first].start() : words[first + size - 1].end()]
            task = predict_task(row["id"], row["text"], span, prompt=prompt)
            if task is not None:
                return task
        raise TaskError(
            f"no span of document {row['id']} can be hidden: all occur {MOST} times or more"
        )

    return LazyTasks(len(prepared.table), make)
