"""Samples to micro-batches."""

import pytest

from rlcore.learner.pack import idle_micro_batch, pack
from rlcore.types import Sample


def sample(id, tokens, trained, **changes):
    return Sample(
        id=id,
        token_ids=tokens,
        mask=[i in trained for i in range(len(tokens))],
        advantages=[10.0 * i for i in range(len(tokens))],
        **changes,
    )


def test_worked_example():
    first = sample("a", [1, 2, 3, 4, 5], {2, 4}, logprobs=[0.0, 0.0, -1.0, 0.0, -2.0], version=3)
    second = sample("b", [6, 7, 8, 9], {1}, weight=0.5, stream="demonstration")
    [batch] = pack([first, second], max_tokens=100, version=3)
    assert batch.token_ids.tolist() == [1, 2, 3, 4, 6]
    assert batch.positions.tolist() == [0, 1, 2, 3, 0]
    assert (
        batch.lengths == (4, 1)
        and batch.order == (0, 1)
        and batch.streams == ("policy", "demonstration")
    )
    assert batch.source.tolist() == [1, 3, 4]
    assert batch.target.tolist() == [3, 5, 7]
    assert batch.row.tolist() == [0, 0, 1]
    assert batch.advantage.tolist() == [20, 40, 10]
    assert batch.behaviour.tolist() == [-1, -2, 0]
    assert batch.has_behaviour.tolist() == [True, True, False]
    assert batch.live.tolist() == [True, True, True]
    assert batch.weight.tolist() == [1, 1, 0.5]
    assert batch.of_stream("demonstration").tolist() == [2]
    assert pack([first], max_tokens=9, version=4)[0].live.tolist() == [False, False]
    assert pack([first], max_tokens=9)[0].of_stream("policy") is None


def test_budget_and_oversized_sequences():
    samples = [sample(str(n), list(range(n)), {n - 1}) for n in (4, 31, 8, 9, 3, 6)]
    batches = pack(samples, max_tokens=12)
    assert [batch.lengths for batch in batches] == [(30,), (8,), (7, 2), (5, 3)]
    assert sorted(index for batch in batches for index in batch.order) == list(range(6))


def test_samples_that_train_nothing_drop_out():
    assert pack([sample("a", [1, 2, 3], set())], max_tokens=12) == []
    assert pack([], max_tokens=12) == []


def test_idle_batch_reads_one_token_and_predicts_none():
    batch = idle_micro_batch()
    assert (
        batch.lengths == (1,)
        and len(batch.token_ids) == 1
        and len(batch.source) == len(batch.advantage) == 0
    )


def test_misaligned_samples_never_arrive():
    with pytest.raises(ValueError, match="sample 'a' is misaligned"):
        Sample(id="a", token_ids=[1, 2], mask=[False], advantages=[0.0, 0.0])
