"""Draws of several ranks: one global order and count for all of them, and forks that leave the original alone."""

from __future__ import annotations

import copy

import pytest

from rlcore.curriculum.prefilter import Prefilter
from rlcore.curriculum.rank_draws import Draw, RankDraws
from rlcore.curriculum.task_sampler import CURRICULA
from rlcore.curriculum.uniform import Uniform
from rlcore.types import Outcome, Task
from tests.curriculum.test_category_samplers import make, tasks
from tests.curriculum.worlds import category_tasks

OF_RL = [name for name in CURRICULA if name != "buckets"]
"""Those whose batches have the size that is asked for; others are refused in stages with resamples."""
THREE = category_tasks({"few": 3})


def all_draws(sampler_of_rank, data: list[Task], ranks: int, first: int, rounds: int) -> list[Draw]:
    """Every draw of a batch with this many resampling rounds on each rank, in global order."""
    drawn = []
    for rank in range(ranks):
        draws = RankDraws(sampler_of_rank(), data, rank=rank, ranks=ranks)
        of_rank = draws.draw_batch(first)
        for _ in range(rounds):
            of_rank += draws.draw_replacements(1)
        assert of_rank == sorted(of_rank, key=lambda draw: draw.order)
        drawn += of_rank
    return sorted(drawn, key=lambda draw: draw.order)


def test_a_task_drawn_twice_has_two_occurrences_whatever_ranks_it_lands_on() -> None:
    alone = RankDraws(Uniform(THREE, seed=0), THREE)
    draws = alone.draw_batch(7) + alone.draw_replacements(5)
    assert [draw.order for draw in draws] == list(range(12))
    for position in range(3):
        occurrences = [draw.occurrence for draw in draws if draw.task_index == position]
        assert occurrences == list(range(4))
    first, second = (
        RankDraws(Uniform(THREE, seed=0), THREE, rank=rank, ranks=2).draw_batch(7) for rank in range(2)
    )
    assert first == draws[:7:2] and second == draws[1:7:2]
    names = {(draw.task_index, draw.occurrence) for draw in first + second}
    assert len(names) == 7


@pytest.mark.parametrize("name", OF_RL)
def test_draws_are_equal_for_any_number_of_ranks(name: str) -> None:
    alone = all_draws(lambda: make(name), tasks(), ranks=1, first=11, rounds=12)
    for ranks in (2, 3, 4):
        assert all_draws(lambda: make(name), tasks(), ranks, 11, rounds=12 // ranks) == alone


def test_a_new_batch_counts_from_zero() -> None:
    draws = RankDraws(Uniform(THREE, seed=0), THREE, rank=1, ranks=2)
    draws.draw_batch(5)
    draws.draw_replacements(1)
    draws.end_batch([3, 1])
    assert draws.resamples == 0
    batch = draws.draw_batch(6)
    assert [draw.order for draw in batch] == [1, 3, 5]
    assert {draw.occurrence for draw in batch} <= {0, 1}


@pytest.mark.parametrize("name", OF_RL)
def test_a_fork_draws_on_and_leaves_the_original_alone(name: str) -> None:
    data = tasks()

    def batches(forked: bool) -> tuple[list[list[Draw]], list[Draw], dict]:
        draws = RankDraws(make(name), data)
        result, of_forks = [], []
        for _ in range(5):
            batch = draws.draw_batch(7)
            if forked:
                fork = draws.fork()
                replacements = fork.draw_replacements(4)
                assert [draw.order for draw in replacements] == list(range(7, 11))
                of_forks += replacements
            draws.end_batch([0])
            result.append(batch)
            outcomes = [
                Outcome(
                    index=draw.task_index,
                    category=data[draw.task_index].category,
                    rewards=(1.0, 0.0),
                    abs_advantage=0.7,
                )
                for draw in batch
            ]
            draws._sampler.observe(outcomes)
        return result, of_forks, draws._sampler.state_dict()

    with_forks, of_forks, state = batches(forked=True)
    without, _, state_without = batches(forked=False)
    assert with_forks == without and state == state_without
    assert len(of_forks) == 20


def test_a_fork_draws_what_the_original_would_have_drawn() -> None:
    draws = RankDraws(Uniform(THREE, seed=0), THREE)
    draws.draw_batch(4)
    fork = draws.fork()
    assert fork.draw_replacements(5) == draws.draw_replacements(5)


def test_a_fork_shares_the_task_set() -> None:
    class Holder(Uniform):
        def __init__(self, tasks: list[Task], *, seed: int) -> None:
            super().__init__(tasks, seed=seed)
            self.tasks = tasks

    class NoCopy(list):
        def __deepcopy__(self, memo: dict) -> None:
            raise AssertionError("the task set is copied")

    data = NoCopy(THREE)
    with pytest.raises(AssertionError):
        copy.deepcopy(data)
    RankDraws(Holder(data, seed=0), data).fork().draw_replacements(1)
    RankDraws(Prefilter(Holder(data, seed=0), data, seed=0), data).fork().draw_replacements(1)
