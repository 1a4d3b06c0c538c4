"""Documents as tokens: cut into pieces of power-of-two lengths (dataset decomposition, arXiv 2405.13226), or joined
and cut into blocks of one length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import PositiveInt

from rlcore.errors import TaskError
from rlcore.tasks.corpus.prepare import Prepared
from rlcore.tasks.lazy import LazyTasks
from rlcore.tokenizer import text_ids
from rlcore.types import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def decompose(length: int, shortest: int, longest: int) -> list[int]:
    """Lengths of the pieces of a document of `length` tokens, largest first: as many of `longest` as fit, then
    its binary expansion. A rest of less than `shortest` is left out.

    shortest and longest are powers of two. Example: `decompose(21, 1, 8) == [8, 8, 4, 1]`.
    """
    pieces = [longest] * (length // longest)
    rest = length % longest
    piece = longest // 2
    while piece >= shortest:
        if rest & piece:
            pieces.append(piece)
        piece //= 2
    return pieces


def piece_tasks(
    prepared: Prepared,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    shortest: int = 256,
    longest: int = 8192,
) -> Sequence[Task]:
    """One task for each piece of each document, for the `sft` stage: the piece's tokens, to imitate after
    the end-of-sequence token.

    A document is its tokens and an end-of-sequence token; its pieces are consecutive. The column `tokens` is the
    length of the piece, for the curriculum `buckets`. Memory: 4 bytes a token.
    """
    for length in (shortest, longest):
        if length < 1 or length & (length - 1):
            raise TaskError(f"pieces have lengths that are powers of two, not {length}")
    if shortest > longest:
        raise TaskError(f"shortest is {shortest}, above longest, {longest}")
    tokenizer = _needed(tokenizer, "pieces")
    ids, starts, lengths, names = _pieces(prepared, tokenizer, shortest, longest)
    if not lengths:
        raise TaskError(f"no document has {shortest} tokens: lower shortest")

    def make(i: int) -> Task:
        piece = ids[starts[i] : starts[i] + lengths[i]]
        return Task(
            id=names[i],
            prompt=tokenizer.eos_token,
            category=str(lengths[i]),
            demonstration=piece.tolist(),
            columns={"tokens": lengths[i]},
        )

    def column(name: str) -> Sequence[Any] | None:
        return {"tokens": lengths, "category": [*map(str, lengths)]}.get(name)

    return LazyTasks(len(lengths), make, column=column)


def _pieces(
    prepared: Prepared, tokenizer: PreTrainedTokenizerBase, shortest: int, longest: int
) -> tuple[np.ndarray, list[int], list[int], list[str]]:
    """All tokens, and of each piece where it starts among them, its length and its name."""
    documents: list[np.ndarray] = []
    starts: list[int] = []
    lengths: list[int] = []
    names: list[str] = []
    total = 0
    for row, tokens in zip(prepared.table, _documents(prepared, tokenizer), strict=True):
        start = total
        for number, length in enumerate(decompose(len(tokens), shortest, longest)):
            starts.append(start)
            lengths.append(length)
            names.append(f"{row['id']}/piece/{number}")
            start += length
        documents.append(tokens)
        total += len(tokens)
    return np.concatenate(documents), starts, lengths, names


def block_tasks(
    prepared: Prepared,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    length: PositiveInt = 1024,
) -> Sequence[Task]:
    """One task for each `length` consecutive tokens of all documents, for the `sft` stage, to imitate after the
    end-of-sequence token. Attention crosses the borders of documents inside a block.

    A document is its tokens and an end-of-sequence token; documents follow each other as in the corpus. The last
    tokens, too few for a block, are left out. Memory: 4 bytes a token.
    """
    tokenizer = _needed(tokenizer, "blocks")
    ids = np.concatenate([*_documents(prepared, tokenizer)])
    count = len(ids) // length
    if not count:
        raise TaskError(f"the corpus has {len(ids)} tokens, too few for a block of {length}")

    def make(i: int) -> Task:
        return Task(
            id=f"block/{i}",
            prompt=tokenizer.eos_token,
            category="block",
            demonstration=ids[i * length : (i + 1) * length].tolist(),
            columns={"tokens": length},
        )

    return LazyTasks(count, make)


def _needed(tokenizer: PreTrainedTokenizerBase | None, what: str) -> PreTrainedTokenizerBase:
    if tokenizer is None:
        raise TaskError(f"{what} are made of tokens: set the corpus's `tokenizer`")
    return tokenizer


def _documents(prepared: Prepared, tokenizer: PreTrainedTokenizerBase) -> Iterator[np.ndarray]:
    """Of each document its tokens and an end-of-sequence token, int32."""
    for row in prepared.table:
        tokens = text_ids(tokenizer, row["text"])
        yield np.array([*tokens, tokenizer.eos_token_id], dtype=np.int32)
