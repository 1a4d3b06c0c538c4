"""Next-token tasks at chosen positions, for RLP (2510.01265) and mid-training (2509.24375)."""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rlcore.errors import TaskError
from rlcore.tasks.corpus.prepare import Prepared
from rlcore.tasks.corpus.template import THINK, check_template, fill
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Entropies = Callable[[Sequence[Sequence[int]]], list[list[float]]]
"""Token ids of some texts -> for each the entropy of a model's distribution over its tokens 2, 3, ..., [T - 1]."""

BINS = ("easy", "medium", "hard")


def position_tasks(
    prepared: Prepared,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    per_document: int = 1,
    min_context: int = 8,
    context_tokens: int = 2048,
    prompt: str = THINK,
    thresholds: Sequence[float] = (0.5, 1.5),
    entropies: Entropies | None = None,
    seed: int = 0,
) -> Sequence[Task]:
    """`per_document` positions of each document, drawn by seed; with `entropies` so many of each of
    its bins, which are the categories.

    A position is the place of a token that has at least `min_context` tokens before it and is not
    white space alone. Bins are cut at the `thresholds`, in nats. A document is read up to
    `context_tokens` tokens. The answer is the token's text; the columns:

        context        all of the document before the token, without the prompt's own words
        continuation   all that follows, beginning with the token
        text, spans    the document, and where in it each token of its tasks stands ([start, end] in characters)
    """
    check_template(prompt, "context")
    if (
        per_document < 1
        or min_context < 1
        or len(thresholds) != len(BINS) - 1
        or list(thresholds) != sorted(thresholds)
    ):
        raise TaskError(
            f"positions need per_document >= 1, min_context >= 1 and {len(BINS) - 1} rising thresholds, got {per_document}, "
            f"{min_context}, {list(thresholds)}"
        )
    if tokenizer is None:
        raise TaskError("positions are those of tokens: set the corpus's `tokenizer`")
    reader = _Reader(prepared, tokenizer, context_tokens)
    chosen = _choose(prepared, reader, min_context, per_document, entropies, thresholds, seed)
    documents = [document for document, _, _ in chosen]

    def make(i: int) -> Task:
        document, t, category = chosen[i]
        text, _, offsets = reader(document)
        start, end = offsets[t]
        siblings = chosen[bisect_left(documents, document) : bisect_right(documents, document)]
        return Task(
            id=f"{prepared.table[document]['id']}/{t}",
            prompt=fill(prompt, context=text[:start]),
            answer=text[start:end],
            category=category,
            demonstration=f"<next>{text[start:end]}</next>",
            columns={
                "context": text[:start],
                "continuation": text[start:],
                "text": text,
                "spans": [list(offsets[other]) for _, other, _ in siblings],
            },
        )

    return LazyTasks(len(chosen), make)


def _choose(
    prepared: Prepared,
    reader: _Reader,
    min_context: int,
    per_document: int,
    entropies: Entropies | None,
    thresholds: Sequence[float],
    seed: int,
) -> list[tuple[int, int, str]]:
    """(document, place of the token, category), in order."""
    chosen: list[tuple[int, int, str]] = []
    for document in range(len(prepared.table)):
        text, ids, offsets = reader(document)
        legal = [t for t in range(min_context, len(ids)) if _is_word(text, offsets, t)]
        pools = (
            {"all": legal}
            if entropies is None
            else _bins(legal, entropies([ids])[0], thresholds)
        )
        rng = random.Random(f"{seed}/{prepared.table[document]['id']}")
        picked = [
            (t, category)
            for category, pool in pools.items()
            for t in rng.sample(pool, min(per_document, len(pool)))
        ]
        chosen += [(document, t, category) for t, category in sorted(picked)]
    if not chosen:
        raise TaskError(
            f"no document has a token with {min_context} tokens before it: lower min_context"
        )
    return chosen


class _Reader:
    """Texts, token ids and their places, of the first `length` tokens of each document."""

    def __init__(
        self, prepared: Prepared, tokenizer: PreTrainedTokenizerBase, length: int
    ) -> None:
        self._prepared, self._tokenizer, self._length = prepared, tokenizer, length
        self._last: tuple[int, tuple[str, list[int], list[tuple[int, int]]]] | None = None

    def __call__(self, document: int) -> tuple[str, list[int], list[tuple[int, int]]]:
        if self._last is None or self._last[0] != document:
            text = self._prepared.table[document]["text"]
            coded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            offsets = coded["offset_mapping"][: self._length]
            self._last = (
                document,
                (text[: offsets[-1][1]], coded["input_ids"][: self._length], offsets),
            )
        return self._last[1]


def _bins(
    legal: Sequence[int], entropies: Sequence[float], thresholds: Sequence[float]
) -> dict[str, list[int]]:
    """The places of each bin; `entropies` begin with that of token 1."""
    of = {t: BINS[bisect_right(thresholds, entropies[t - 1])] for t in legal}
    return {name: [t for t in legal if of[t] == name] for name in BINS}


def _is_word(text: str, offsets: Sequence[tuple[int, int]], t: int) -> bool:
    """Whether token t has text of its own: not a later byte of a character, not white space alone."""
    start, end = offsets[t]
    return start >= offsets[t - 1][1] and bool(text[start:end].strip())
