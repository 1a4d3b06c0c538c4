from __future__ import annotations

import pytest

from rewards.length import length, overlong, relative_length
from rlcore import RewardSpec, Task
from rlcore.scoring.scorer import Scorer


def shaped(reward, tokens, **settings):
    return [reward("x", completion_ids=[0] * n, **settings) for n in tokens]


def test_budgets_of_train_long_think_short():
    at = (0, 50, 100, 150, 200, 300)
    assert shaped(length, at, max_tokens=100, shape="triangle") == [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    assert shaped(length, at, max_tokens=100) == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    with pytest.raises(ValueError, match="choose band or triangle"):
        shaped(length, [3], shape="round")


def test_the_nearest_to_the_budget_gets_most_and_short_ones_tie_in_a_band():
    triangle, band = (
        shaped(length, (20, 90, 140), max_tokens=100, shape=shape) for shape in ("triangle", "band")
    )
    assert max(triangle) == triangle[1] and band[0] == band[1] > band[2]


def test_soft_overlong_punishment_of_dapo():
    l_max, l_cache = 20_480, 4_096
    at = (0, l_max - l_cache, l_max - l_cache // 2, l_max, l_max + 1)
    assert shaped(overlong, at, max_tokens=l_max, cache=l_cache) == [0.0, 0.0, -0.5, -1.0, -1.0]
    with pytest.raises(ValueError, match="cache is 0"):
        shaped(overlong, [3], max_tokens=10, cache=0)


def test_relative_length_of_kimi():
    lengths = [[0] * n for n in (100, 200, 300)]
    assert relative_length(lengths) == [0.5, 0.0, -0.5]
    assert relative_length(lengths[:1] * 3) == [0.0] * 3
    assert relative_length([[], []]) == [0.0, 0.0]


def test_lengths_in_a_scorer_see_the_group_and_a_budget_column(rollout):
    specs = [
        RewardSpec("rewards.length:relative_length", name="relative"),
        RewardSpec("rewards.length:length", params={"shape": "triangle"}, name="budget"),
    ]
    task = Task(id="t", prompt="p", answer="4", columns={"max_tokens": 4})
    with Scorer(specs, workers=1) as scorer:
        verdicts = scorer.score([(task, [rollout("4", tokens=n) for n in (2, 4, 6)])])[0]
    assert [dict(verdict.parts) for verdict in verdicts] == [
        {"relative": 0.5, "budget": 0.5}, {"relative": 0.0, "budget": 1.0}, {"relative": -0.5, "budget": 0.5},
    ]  # fmt: skip
