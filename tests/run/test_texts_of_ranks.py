"""Next-token training beside RL learns from the same texts under the same keys on any number of ranks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rlcore.rollout.open_group import TaskDraw
from rlcore.run.next_token import STREAM, next_token_groups
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Task

TEXTS = ["one", "two", "one", "three", "two", "one", "four"]
OBJECTIVE = SimpleNamespace(streams={STREAM})


def texts_of(ranks: int) -> list[tuple[tuple, list[int]]]:
    draws = [
        TaskDraw(task=Task(id=f"t{i}", prompt="?", columns={"text": text}), order=i)
        for i, text in enumerate(TEXTS)
    ]
    uses = [(draw.order, draw.order % ranks, draw.task.columns["text"]) for draw in draws]
    keyed = []
    for rank in range(ranks):
        mine = draws[rank::ranks]
        run = SimpleNamespace(
            accelerator=SimpleNamespace(process_index=rank),
            gather=lambda _: uses,
            policy=SimpleNamespace(tokenizer=byte_tokenizer()),
            max_length=100,
        )
        batch = SimpleNamespace(
            collected=SimpleNamespace(draws=mine),
            groups=[SimpleNamespace(task=draw.task) for draw in mine],
        )
        keyed += next_token_groups(run, batch, OBJECTIVE)
    return sorted((key, sample.token_ids) for key, [sample] in keyed)


@pytest.mark.parametrize("ranks", [2, 3])
def test_each_text_is_learned_once_whatever_the_number_of_ranks(ranks: int) -> None:
    assert texts_of(ranks) == texts_of(1)
    assert len(texts_of(1)) == len(set(TEXTS))
