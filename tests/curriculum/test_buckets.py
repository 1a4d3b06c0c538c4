"""Dataset decomposition: pieces of documents, and batches of one length with a constant number of tokens."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace

import pytest

from rlcore.curriculum.buckets import Buckets
from rlcore.curriculum.task_sampler import drawn
from rlcore.errors import RecipeError, TaskError
from rlcore.recipe.build import build_curriculum, build_order
from rlcore.rollout.demonstration import encode_demonstration
from rlcore.rollout.prompt import PromptEncoder
from rlcore.tasks.corpus.pieces import decompose, piece_tasks
from rlcore.tokenizer import load_tokenizer
from rlcore.types import Task


def of_lengths(**sizes: int) -> list[Task]:
    return [
        Task(id=f"{length}/{i}", prompt="?", columns={"tokens": int(length[1:])})
        for length, size in sizes.items()
        for i in range(size)
    ]


TASKS = of_lengths(t4=64, t8=40, t16=20, t32=16)


def batches(sampler: Buckets, n: int, steps: int) -> list[list[int]]:
    return [drawn(sampler, n, len(TASKS)) for _ in range(steps)]


def lengths(batch: list[int]) -> list[int]:
    return [TASKS[position].columns["tokens"] for position in batch]


@pytest.mark.parametrize("length", [0, 1, 5, 21, 64, 67, 1000])
def test_pieces_are_the_binary_expansion(length: int) -> None:
    """The bits of the number, as Python prints them, and the longest piece as often as it fits."""
    bits = [int(bit) * 2 ** (6 - place) for place, bit in enumerate(f"{length % 128:07b}")]
    assert decompose(length, 1, 64) == [64] * (2 * (length // 128)) + [b for b in bits if b]
    assert sum(decompose(length, 1, 64)) == length
    cut = decompose(length, 8, 64)
    assert length - 8 < sum(cut) <= length and min(cut, default=8) >= 8


def test_pieces_of_a_document_concatenate_to_it() -> None:
    texts = ["The river is long.", "Ä", "x" * 70, "ab" * 20]
    rows = [{"id": str(i), "text": text} for i, text in enumerate(texts)]
    tokenizer = load_tokenizer("bytes")
    encoder = PromptEncoder(tokenizer)
    tasks = piece_tasks(SimpleNamespace(table=rows), tokenizer=tokenizer, shortest=1, longest=32)
    read: dict[str, list[int]] = {}
    for task in tasks:
        ids, imitated = encode_demonstration(encoder, task)
        assert len(ids) == task.columns["tokens"] == int(task.category) and all(imitated)
        assert encoder.encode(task) == [tokenizer.eos_token_id]
        read.setdefault(task.id.split("/")[0], []).extend(ids)
    for i, text in enumerate(texts):
        assert read[str(i)] == [*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert list(tasks.column("tokens")) == [task.columns["tokens"] for task in tasks]


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"shortest": 3}, "powers of two"), ({"shortest": 64}, "above longest"), ({"tokenizer": None}, "tokenizer")],
)
def test_pieces_that_cannot_be(settings: dict, said: str) -> None:
    given = {"tokenizer": load_tokenizer("bytes"), "shortest": 1, "longest": 32} | settings
    with pytest.raises(TaskError, match=said):
        piece_tasks(SimpleNamespace(table=[{"id": "0", "text": "abc"}]), **given)
    with pytest.raises(TaskError, match="no document has 32"):
        piece_tasks(
            SimpleNamespace(table=[{"id": "0", "text": "abc"}]),
            tokenizer=load_tokenizer("bytes"), shortest=32, longest=32,
        )  # fmt: skip


def test_every_batch_has_one_length_and_the_same_tokens() -> None:
    for batch in batches(Buckets(TASKS, seed=0), n=2, steps=60):
        assert len(set(lengths(batch))) == 1 and len(set(batch)) == len(batch)
        assert sum(lengths(batch)) == 2 * 32


def test_an_epoch_has_every_task_once() -> None:
    """64 tokens a batch: 4, 5, 5 and 8 whole batches, in one cycle or in eight."""
    for cycles in (1, 4, 8):
        sampler = Buckets(TASKS, seed=3, cycles=cycles)
        epoch = [position for batch in batches(sampler, 2, 4 + 5 + 5 + 8) for position in batch]
        assert sorted(epoch) == list(range(len(TASKS)))


def test_what_makes_no_whole_batch_waits() -> None:
    """A bucket of three tasks and batches of four: three batches in four epochs."""
    tasks = of_lengths(t2=3, t8=4)
    sampler = Buckets(tasks, seed=0, cycles=1)
    counts = Counter(position for _ in range(4 * 4 + 3) for position in sampler.draw(1))
    assert [counts[i] for i in range(3)] == [4, 4, 4] and [counts[i] for i in range(3, 7)] == [4] * 4


def test_the_next_bucket_is_drawn_by_batches_left_and_odds() -> None:
    """All first two draws of a cycle, their chances by hand against 4000 seeds."""
    tasks = of_lengths(t4=16, t8=4)  # of 8 tokens a batch: 8 and 4 batches
    weights = {4: 8 * 2.0, 8: 4 * 1.0}
    seen: Counter[tuple[int, int]] = Counter()
    for seed in range(4000):
        sampler = Buckets(tasks, odds=2.0, cycles=1, seed=seed)
        pair = [tasks[sampler.draw(1)[0]].columns["tokens"] for _ in range(2)]
        seen[tuple(pair)] += 1
    for first in (4, 8):
        after = {4: (8 - (first == 4)) * 2.0, 8: (4 - (first == 8)) * 1.0}
        for second in (4, 8):
            chance = weights[first] / 20 * after[second] / sum(after.values())
            spread = math.sqrt(chance * (1 - chance) / 4000)
            assert abs(seen[first, second] / 4000 - chance) < 4 * spread


@pytest.mark.parametrize(("odds", "sign"), [(4.0, 1), (0.25, -1)])
def test_odds_order_a_cycle_by_length(odds: float, sign: int) -> None:
    first, last = 0.0, 0.0
    for seed in range(40):
        cycle = [lengths(batch)[0] for batch in batches(Buckets(TASKS, odds=odds, cycles=1, seed=seed), 2, 22)]
        first, last = first + sum(cycle[:5]), last + sum(cycle[-5:])
    assert sign * (last - first) > 0.5 * max(first, last)


@pytest.mark.parametrize(
    ("tasks", "settings", "said"),
    [
        (of_lengths(t4=2, t6=2), {}, "longest is a multiple"),
        (TASKS, {"odds": 0.0}, "odds above 0"),
        (TASKS, {"cycles": 0}, "cycles of at least 1"),
        (TASKS, {"by": "length"}, "column 'length'"),
    ],
)
def test_buckets_that_cannot_be(tasks: list[Task], settings: dict, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Buckets(tasks, **{"seed": 0, **settings})


def test_a_stage_with_rewards_refuses_them() -> None:
    with pytest.raises(RecipeError, match="decides how many tasks a batch has"):
        build_curriculum("buckets", TASKS, seed=0)
    assert isinstance(build_order("buckets", TASKS, seed=0), Buckets)
