from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from rlcore.curriculum.ordered import Ordered
from rlcore.curriculum.task_sampler import CURRICULA
from rlcore.curriculum.uniform import Uniform
from rlcore.errors import RecipeError, RunError, TaskError
from rlcore.plugin import build
from rlcore.recipe.build import build_curriculum
from rlcore.types import Outcome, Task


def levels(keys: Sequence[object]) -> list[Task]:
    return [Task(id=str(i), prompt="?", columns={"level": key}) for i, key in enumerate(keys)]


def tasks(n: int) -> list[Task]:
    return levels(range(n))


def by_level(keys: Sequence[object], *, reverse: bool = False, seed: int = 0) -> Ordered:
    return Ordered(levels(keys), by="level", reverse=reverse, seed=seed)


def _outcome(category: str, *rewards: float) -> Outcome:
    return Outcome(index=0, category=category, rewards=rewards, abs_advantage=0.0)


def test_uniform_draws_each_position_once_an_epoch():
    sampler = Uniform(tasks(10), seed=0)
    drawn = sampler.draw(7) + sampler.draw(7) + sampler.draw(16)
    epochs = [drawn[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert Uniform(tasks(10), seed=0).draw(30) == drawn != Uniform(tasks(10), seed=1).draw(30)
    assert Uniform(tasks(3), seed=0).draw(0) == []


def test_uniform_prefers_nobody():
    firsts = Counter(Uniform(tasks(5), seed=seed).draw(1)[0] for seed in range(2_000))
    assert all(abs(count - 400) < 90 for count in firsts.values())  # five standard errors


def test_ordered_goes_by_key_and_shuffles_ties():
    keys = [2.0, 0.5, 2.0, 1.0, 0.5, 2.0]
    sampler = by_level(keys)
    epochs = [sampler.draw(6) for _ in range(20)]
    assert all(
        [keys[i] for i in epoch] == sorted(keys) and sorted(epoch) == list(range(6))
        for epoch in epochs
    )
    assert len(set(map(tuple, epochs))) > 3
    assert [keys[i] for i in by_level(keys, reverse=True).draw(6)] == sorted(keys, reverse=True)
    assert by_level("bac").draw(4) == [1, 0, 2, 1]


@pytest.mark.parametrize(
    "make",
    [
        lambda seed: Uniform(tasks(10), seed=seed),
        lambda seed: by_level([1, 1, 2, 2, 2] * 2, seed=seed),
    ],
)
@pytest.mark.parametrize("before", [0, 3, 10, 27])
def test_resume_draws_what_would_have_come(make, before):
    sampler = make(5)
    sampler.draw(before)
    state = json.loads(json.dumps(sampler.state_dict()))
    assert len(json.dumps(state)) < 100
    resumed = make(99)
    resumed.load_state_dict(state)
    assert resumed.draw(25) == sampler.draw(25)


def test_resume_with_other_data_is_refused():
    with pytest.raises(RunError, match="from 10 tasks and there are 9"):
        Uniform(tasks(9), seed=0).load_state_dict(Uniform(tasks(10), seed=0).state_dict())
    with pytest.raises(TaskError, match="empty"):
        Uniform(tasks(0), seed=0)


def test_metrics_are_of_the_outcomes_observed_last():
    sampler = Uniform(tasks(10), seed=0)
    assert sampler.metrics() == {}
    sampler.observe([_outcome("gone", 1.0)])
    sampler.observe(
        [
            _outcome("easy", 1.0, 1.0),
            _outcome("easy", 0.0, 1.0),
            _outcome("hard", -1.0, 0.2),
            _outcome("dead"),
        ]
    )
    assert sampler.metrics() == {
        "curriculum/easy/frac": 0.5,
        "curriculum/easy/pass_rate": 0.75,
        "curriculum/hard/frac": 0.25,
        "curriculum/hard/pass_rate": 0.0,
        "curriculum/dead/frac": 0.25,
    }


def named(named: object, n: int = 4) -> object:
    return build(named, CURRICULA, levels(range(n)), what="curriculum", seed=0)


def test_a_recipe_names_one_by_name_or_by_place(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "class Last:\n    def __init__(self, tasks, *, seed: int, back: int = 1):\n        self.at = len(tasks) - back\n"
    )
    assert isinstance(named("uniform"), Uniform)
    assert named({"use": "ordered", "by": "level", "reverse": True}).draw(4) == [3, 2, 1, 0]
    assert named({"use": f"{tmp_path}/mine.py:Last", "back": 2}).at == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("unifrom", "no curriculum 'unifrom'; did you mean 'uniform'"),
        ({"by": "level"}, "add `use`"),
        ({"use": "ordered", "bye": "level"}, "no parameter 'bye'; did you mean 'by'"),
        ({"use": "ordered", "reverse": "yes"}, "'reverse' must be a valid boolean, not 'yes'"),
        ({"use": "ordered", "by": "size"}, "has not; there are: category, level"),
        ({"use": "uniform", "seed": 3}, "no parameter 'seed'"),
        ("nowhere.py:Last", "there is no curriculum file"),
    ],
)
def test_a_name_that_is_wrong_is_met_with_a_sentence(asked, message):
    with pytest.raises(RecipeError, match=message):
        named(asked)


def test_one_that_lacks_a_method_is_refused_before_anything_runs(tmp_path: Path):
    (tmp_path / "lame.py").write_text(
        "class Lame:\n    def __init__(self, tasks, *, seed: int):\n        self.draw = None\n"
    )
    with pytest.raises(RecipeError, match="lacks observe, state_dict"):
        build_curriculum(f"{tmp_path}/lame.py:Lame", tasks(3), seed=0)
