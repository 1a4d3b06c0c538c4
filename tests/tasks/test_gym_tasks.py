from __future__ import annotations

import sys

import pytest

from rlcore import RewardSpec
from rlcore.errors import TaskError
from rlcore.scoring.scorer import Scorer
from rlcore.tasks.gym import gym
from tests.short_rollouts import short_rollout

pytest.importorskip("reasoning_gym")


def test_gym_tasks_are_scored_by_their_own_rule():
    legs = gym("leg_counting", size=3, seed=1, params={"max_animals": 4})
    countdown = gym("countdown", size=2, seed=1)
    assert (
        list(legs) == legs[:]
        and legs[0] == gym("leg_counting", size=9, seed=1, params={"max_animals": 4})[0]
    )
    assert legs[0].category == "leg_counting" and legs[0] != gym("leg_counting", size=3, seed=2)[0]
    texts = ["<answer>{}</answer>", "{}", "<answer>7 legs</answer>", ""]
    items = [
        (task, [short_rollout(text.format(task.answer)) for text in texts])
        for task in (legs[0], countdown[0])
    ]
    items.append((legs[1], [short_rollout(legs[1].answer, finish="length")]))
    with Scorer([RewardSpec("rewards.gym:gym_answer")], workers=1) as scorer:
        verdicts = scorer.score(items)
    for group in verdicts[:2]:
        assert [verdict.value for verdict in group[:2]] == [1.0, 1.0], group
        assert all(verdict.value < 0.5 for verdict in group[2:]), group
    assert verdicts[2][0].value == 0.0


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("leg_countin", None, "no data set 'leg_countin'; did you mean 'leg_counting'"),
        ("leg_counting", {"max_legs": 4}, "does not take the params"),
        ("leg_counting", {"min_animals": 9, "max_animals": 2}, "does not take the params"),
    ],
)
def test_bad_names_and_params_are_met_with_a_sentence(name, params, message):
    with pytest.raises(TaskError, match=message):
        gym(name, size=3, params=params)


def test_size_is_bounded_and_the_category_is_known_without_the_tasks():
    with pytest.raises(TaskError, match="up to 2,000,000 tasks, not size=3000000"):
        gym("leg_counting", size=3_000_000)
    tasks = gym("leg_counting", size=3)
    assert tasks.column("category") == [task.category for task in tasks]
    assert tasks.column("entry") is None


def test_absent_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(TaskError, match=r"pip install 'rlcore\[gym\]'"):
        gym("leg_counting", size=3)
