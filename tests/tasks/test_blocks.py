"""Documents joined and cut into blocks of one length."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rlcore.errors import TaskError
from rlcore.rollout.demonstration import encode_demonstration
from rlcore.rollout.prompt import PromptEncoder
from rlcore.tasks.corpus.pieces import block_tasks
from rlcore.tokenizer import load_tokenizer

TOKENIZER = load_tokenizer("bytes")
TEXTS = ["The river is long.", "\u00c4", "x" * 70, "ab" * 20]
CORPUS = SimpleNamespace(table=[{"id": str(i), "text": text} for i, text in enumerate(TEXTS)])


@pytest.mark.parametrize("length", [1, 7, 19, 64])
def test_blocks_are_the_joined_documents(length: int) -> None:
    """By the texts' bytes: the byte tokenizer gives one token for each."""
    joined = [id for text in TEXTS for id in [*text.encode(), TOKENIZER.eos_token_id]]
    encoder, read = PromptEncoder(TOKENIZER), []
    tasks = block_tasks(CORPUS, tokenizer=TOKENIZER, length=length)
    for task in tasks:
        ids, imitated = encode_demonstration(encoder, task)
        assert len(ids) == length == task.columns["tokens"] and all(imitated)
        assert encoder.encode(task) == [TOKENIZER.eos_token_id]
        read.extend(ids)
    assert read == joined[: len(joined) - len(joined) % length]
    assert len({task.id for task in tasks}) == len(joined) // length


def test_blocks_that_cannot_be() -> None:
    with pytest.raises(TaskError, match="134 tokens, too few for a block of 135"):
        block_tasks(CORPUS, tokenizer=TOKENIZER, length=135)
    with pytest.raises(TaskError, match="blocks are made of tokens: set the corpus's `tokenizer`"):
        block_tasks(CORPUS, tokenizer=None)
