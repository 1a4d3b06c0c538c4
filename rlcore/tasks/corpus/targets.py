"""Next-segment tasks (RLPT, arXiv 2509.19249): say a segment, given its context."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from rlcore.errors import TaskError
from rlcore.tasks.corpus.prepare import Prepared
from rlcore.tasks.corpus.segment import cut
from rlcore.tasks.corpus.template import ASR, MSR, check_template, fill
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task


def segment_tasks(
    prepared: Prepared,
    *,
    msr_share: float = 0.5,
    per_document: int | None = None,
    context_chars: int = 4000,
    reference: int = 3,
    asr_prompt: str = ASR,
    msr_prompt: str = MSR,
    tag: str = "next",
    seed: int = 0,
) -> Sequence[Task]:
    """One task for each target of each document, or for at most `per_document` of them, drawn by
    seed; category "asr" or, for a seeded share of them, "msr".

    With segments s_1..s_n a target is a legal s_i, 2 <= i <= n-1. ASR shows s_<i, MSR s_<i and
    s_(i+1); of s_<i at most the last `context_chars`, from the start of a segment on. The answer is
    s_i; the column `reference` holds s_i and the segments after it, `reference` in all, for a
    reward that takes a prefix of them; a demonstration puts s_i between `tag`s, or with `tag: ""` goes
    on with it as it stands in the text. No prompt contains
    its answer: a segment that is said twice in its document is no target."""
    per_document = sys.maxsize if per_document is None else per_document
    if not 0 <= msr_share <= 1 or min(reference, context_chars, per_document) < 1:
        raise TaskError(
            "next-segment tasks need msr_share from 0 to 1, and reference, context_chars and per_document >= 1, "
            f"got {msr_share}, {reference}, {context_chars} and {per_document}"
        )
    check_template(asr_prompt, "context")
    check_template(msr_prompt, "context", "next")
    counts = [min(len(targets), per_document) for targets in prepared.table["targets"]]
    ends = np.cumsum(counts, dtype=np.int64)
    if not len(ends) or not ends[-1]:
        raise TaskError(
            "no segment of the corpus can be asked for: lower target_chars, or use another unit"
        )

    def make(i: int) -> Task:
        document = int(np.searchsorted(ends, i, side="right"))
        row = prepared.table[document]
        place = i - int(ends[document - 1] if document else 0)
        number = _drawn(row, per_document, seed)[place]
        segments = [*cut(row["text"], row["ends"])]
        is_msr = random.Random(f"{seed}/{row['id']}/{number}").random() < msr_share
        kind = "msr" if is_msr else "asr"
        context = "".join(_last(segments[:number], context_chars))
        following = segments[number + 1].strip()[:context_chars]
        template = msr_prompt if kind == "msr" else asr_prompt
        stripped = [segment.strip() for segment in segments[number : number + reference]]
        return Task(
            id=f"{row['id']}/{kind}/{number}",
            prompt=fill(template, context=context, next=following),
            answer=stripped[0],
            category=kind,
            demonstration=f"<{tag}>{stripped[0]}</{tag}>" if tag else segments[number],
            columns={"reference": stripped, "context": context},
        )

    return LazyTasks(int(ends[-1]), make)


def _drawn(row: dict[str, Any], number: int, seed: int) -> list[int]:
    """So many targets of a document, or all where it has no more."""
    if number >= len(row["targets"]):
        return row["targets"]
    return sorted(random.Random(f"{seed}/{row['id']}").sample(row["targets"], number))


def text_tasks(prepared: Prepared, *, prompt_chars: int | None = None) -> Sequence[Task]:
    """Plain next-token training, for the `sft` stage: each document, its beginning as the prompt and the rest to imitate.

    prompt_chars: length of the prompt; default: that of the first segment.
    """
    if prompt_chars is not None and prompt_chars < 1:
        raise TaskError(
            f"prompt_chars is {prompt_chars}, but a prompt has at least 1 character"
        )

    def make(i: int) -> Task:
        row = prepared.table[i]
        first = row["ends"][0] if prompt_chars is None else prompt_chars
        return Task(
            id=row["id"],
            prompt=row["text"][:first],
            category="text",
            demonstration=row["text"][first:],
        )

    return LazyTasks(len(prepared.table), make)


def _last(segments: list[str], chars: int) -> list[str]:
    """The last segments that together have at most `chars` characters, or the end of the last one."""
    size, start = 0, len(segments)
    while start and size + len(segments[start - 1]) <= chars:
        start -= 1
        size += len(segments[start])
    return segments[start:] or [segments[-1][-chars:]]
