"""Orders that need no rewards: what their publications say, number by number."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from rlcore.curriculum.cyclic import Cyclic
from rlcore.curriculum.folded import Folded
from rlcore.curriculum.phases import Phases
from rlcore.curriculum.power_law import PowerLawReplay
from rlcore.errors import RecipeError
from rlcore.types import Task


def scored(scores) -> list[Task]:
    return [Task(id=str(i), prompt="?", columns={"score": score}) for i, score in enumerate(scores)]


def domains(**sizes: int) -> list[Task]:
    return [Task(id=f"{name}{i}", prompt="?", category=name) for name, size in sizes.items() for i in range(size)]


def test_the_cycle_of_shares_is_the_papers():
    sampler = Cyclic(scored([1] * 8), by="score", seed=0)
    assert [sampler.share(epoch) for epoch in range(9)] == [0.25, 0.5, 1, 0.5, 0.25, 0.5, 1, 0.5, 0.25]
    other = Cyclic(scored([1] * 8), by="score", start=0.3, end=0.9, alpha=0.6, seed=0)
    assert np.allclose([other.share(epoch) for epoch in range(6)], [0.3, 0.5, 0.3 / 0.36, 0.9, 0.3 / 0.36, 0.5])


def test_a_cycle_presents_what_its_shares_say_each_task_once_an_epoch():
    sampler = Cyclic(scored(range(1, 41)), by="score", seed=0)
    epochs = [sampler.draw(size) for size in (10, 20, 40, 20)]
    assert all(len(set(epoch)) == len(epoch) for epoch in epochs)
    assert sorted(epochs[2]) == list(range(40))
    assert sampler.draw(10) != epochs[0]


def test_easy_tasks_are_in_the_small_subsets_more_often():
    """The first place of a subset that is drawn in proportion to scores holds each task with exactly this chance."""
    scores = [1.0, 2.0, 3.0, 4.0]
    subsets = [Cyclic(scored(scores), by="score", seed=seed).draw(1)[0] for seed in range(4000)]
    counts = Counter(subsets)
    for position, score in enumerate(scores):
        expected = score / sum(scores)
        assert abs(counts[position] / 4000 - expected) < 4 * math.sqrt(expected * (1 - expected) / 4000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"alpha": 1.0}, "alpha"), ({"start": 0.0}, "start"), ({"start": 0.5, "end": 0.25}, "start"), ({"by": "none"}, "column")],
)
def test_cycles_that_never_turn_are_refused(settings, said):
    with pytest.raises(RecipeError, match=said):
        Cyclic(scored([1, 2]), **{"by": "score", "seed": 0, **settings})
    with pytest.raises(RecipeError, match="above 0"):
        Cyclic(scored([1, 0]), by="score", seed=0)


def test_folds():
    assert Folded(scored(range(9)), by="score", folds=3, seed=0).draw(9) == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    for size in (1, 2, 7, 20):
        for folds in (1, 2, 3, 25):
            epoch = Folded(scored(range(size)), by="score", folds=folds, seed=0).draw(size)
            assert sorted(epoch) == list(range(size))
    assert Folded(scored(range(9)), by="score", folds=1, seed=0).draw(9) == list(range(9))
    with pytest.raises(RecipeError, match="folds is 0"):
        Folded(scored(range(9)), by="score", folds=0, seed=0)


def test_phases_switch_at_their_step_and_keep_their_shares():
    tasks = domains(web=50, math=10, old=10)
    phases = [{"until": 8, "weights": {"web": 9, "math": 1}}, {"weights": {"web": 2, "math": 2, "old": 1}}]
    sampler = Phases(tasks, phases=phases, seed=0)
    drawn = []
    for _ in range(10):
        drawn.append(Counter(tasks[position].category for position in sampler.draw(100)))
        sampler.observe([])
    assert all(step == {"web": 90, "math": 10} for step in drawn[:8])
    assert all(step == {"web": 40, "math": 40, "old": 20} for step in drawn[8:])


def test_a_share_that_is_no_whole_number_is_kept_over_the_steps():
    tasks = domains(new=30, old=30)
    sampler = Phases(tasks, phases=[{"weights": {"new": 0.83, "old": 0.17}}], seed=0)
    drawn = Counter()
    for step in range(1, 200):
        drawn += Counter(tasks[position].category for position in sampler.draw(7))
        sampler.observe([])
        assert abs(drawn["old"] - 0.17 * 7 * step) <= 1


def test_shares_of_many_categories_are_kept_to_less_than_a_task():
    """Random shares, some of them tiny: of k tasks every category has s k, less than one more or less, at every k."""
    rng = np.random.default_rng(0)
    unequal = np.array([1.0, 1.0, 1.0, 1.0, 10.0, 1.0, 10.0, 30.0, 10.0, 1.0])  # taking what is owed most misses these by 1.12
    for weights in [unequal, *(rng.random(rng.integers(2, 13)) ** rng.choice([0.2, 1, 4]) for _ in range(60))]:
        names = [f"c{i:02}" for i in range(len(weights))]
        tasks = domains(**dict.fromkeys(names, 2))
        sampler = Phases(tasks, phases=[{"weights": dict(zip(names, weights.tolist(), strict=True))}], seed=0)
        drawn = np.zeros(len(weights))
        for k in range(1, 250):
            drawn[int(tasks[sampler.draw(1)[0]].category[1:])] += 1
            assert np.abs(drawn - weights / weights.sum() * k).max() < 1


def test_a_phase_owes_nothing_of_the_one_before():
    """After two of three equal shares the third is owed a task; the next phase does not name it."""
    tasks = domains(a=9, b=9, c=9)
    phases = [{"until": 1, "weights": {"a": 1, "b": 1, "c": 1}}, {"weights": {"a": 1, "b": 1}}]
    sampler = Phases(tasks, phases=phases, seed=0)
    sampler.draw(2)
    sampler.observe([])
    assert Counter(tasks[position].category for position in sampler.draw(20)) == {"a": 10, "b": 10}


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ([], "at least one phase"),
        ([{"weights": {"web": 1}}, {"weights": {"web": 1}}], "needs until"),
        ([{"until": 9, "weights": {"web": 1}}], "last phase lasts"),
        ([{"until": 9, "weights": {"web": 1}}, {"until": 5, "weights": {"web": 1}}, {"weights": {"web": 1}}], "after that of"),
        ([{"weight": {"web": 1}}], "keys until and weights"),
        ([{"weights": {"wbe": 1}}], "did you mean 'web'"),
    ],
)
def test_phases_that_mean_nothing(phases, said):
    with pytest.raises(RecipeError, match=said):
        Phases(domains(web=3, math=3), phases=phases, seed=0)


@pytest.mark.parametrize("exponent", [0.0, 0.7, 1.5])
def test_the_chance_to_meet_a_task_again_is_a_power_of_the_time(exponent):
    """In a stream without an end: of each replay the chance of its age among all ages, against the expected one."""
    sampler = PowerLawReplay(scored([0] * 1500), replay=0.5, exponent=exponent, seed=1)
    last: dict[int, int] = {}
    met, expected = np.zeros(3), np.zeros(3)
    edges = [1, 8, 64, 10**6]
    for now in range(2000):
        position = sampler.draw(1)[0]
        if position in last:
            ages = np.array([now - then for then in last.values()], dtype=float)
            chances = ages**-exponent / (ages**-exponent).sum()
            for band in range(3):
                inside = (ages >= edges[band]) & (ages < edges[band + 1])
                expected[band] += chances[inside].sum()
                met[band] += edges[band] <= now - last[position] < edges[band + 1]
        last[position] = now
    assert 850 < met.sum() < 1150
    assert (np.abs(met - expected) < 4 * np.sqrt(expected) + 1).all()


def test_new_tasks_come_in_their_order():
    sampler = PowerLawReplay(scored([0] * 50), replay=0.4, seed=0)
    positions = sampler.draw(60)
    new = list(dict.fromkeys(positions))
    assert new == list(range(len(new)))
    assert PowerLawReplay(scored([0] * 5), replay=0.0, seed=0).draw(7) == [0, 1, 2, 3, 4, 0, 1]
