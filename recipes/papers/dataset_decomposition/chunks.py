"""The control of dataset decomposition: documents joined to one text and cut into chunks of one length."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rlcore.errors import TaskError
from rlcore.tasks.corpus.prepare import Prepared
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task


def chunk_tasks(
    prepared: Prepared, *, tokenizer: Any, length: int, seed: int = 0
) -> Sequence[Task]:
    """Chunks of `length` tokens of all documents in random order, each ended by the end-of-sequence token.

    Tokens read what stands before them in the chunk, of other documents too. What is left at the end makes no chunk.
    """
    rows = list(range(len(prepared.table)))
    random.Random(seed).shuffle(rows)
    ids: list[int] = []
    for row in rows:
        text = prepared.table[row]["text"]
        ids += [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    if len(ids) < length:
        raise TaskError(f"all documents together have {len(ids)} tokens, fewer than one chunk of {length}")

    def make(i: int) -> Task:
        return Task(
            id=f"chunk/{i}",
            prompt=tokenizer.eos_token,
            category=str(length),
            demonstration=ids[i * length : (i + 1) * length],
            columns={"tokens": length},
        )

    return LazyTasks(len(ids) // length, make)
