"""Baselines for other aims than the mean reward, against enumeration and against least squares; and what they refuse."""

import math
import random
from itertools import combinations

import numpy as np
import pytest

from rlcore.credit import group_credit
from rlcore.credit.baselines import (
    length_weighted,
    log_partition,
    max_at_k,
    max_likelihood,
    pass_at_k,
)
from rlcore.credit.group import scored_rollouts
from rlcore.credit.whiten import batch_scaled
from rlcore.errors import RecipeError
from rlcore.types import Group, Rollout, Task, Verdict


def group(rewards, lengths=None, name="t"):
    lengths = lengths or [2] * len(rewards)
    rollouts = [
        Rollout.from_tokens(
            id=f"{name}#{i}",
            task_id=name,
            token_ids=[7] * (1 + n),
            mask=[False] + [True] * n,
            logprobs=[0.0] * (1 + n),
        )
        for i, n in enumerate(lengths)
    ]
    verdicts = [
        Verdict(value=r) if r is not None else Verdict(value=None, status="timed-out")
        for r in rewards
    ]
    return Group(task=Task(id=name, prompt="p"), rollouts=rollouts, verdicts=verdicts)


def advantages(rewards, lengths=None, **settings):
    credit = group_credit(zero_variance="keep", **settings)
    return [sample.advantages[-1] for sample in credit([group(rewards, lengths)])[0]]


BINARY = [[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0]]


@pytest.mark.parametrize("rewards", BINARY, ids=str)
@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_pass_at_k_is_the_mean_over_all_sets(rewards, k):
    n = len(rewards)
    sets = list(combinations(range(n), k))
    earned = np.array([max(rewards[i] for i in members) for members in sets], dtype=float)
    want = [0.0] * n
    if earned.std():
        of_sets = (earned - earned.mean()) / earned.std()
        want = [of_sets[[i in members for members in sets]].mean() for i in range(n)]
    got = pass_at_k(rewards, k=k)
    assert np.allclose(got, want, atol=1e-12) and abs(sum(got)) < 1e-12
    if k == 3 and rewards == BINARY[0]:
        assert not np.allclose(got, pass_at_k(rewards, k=2), atol=1e-2)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("rewards", [BINARY[0], [0.1, 0.9, -0.4, 0.9, 0.3, 0.2]], ids=str)
def test_max_at_k_is_what_each_adds_to_every_set(rewards, k):
    n = len(rewards)
    others = [[j for j in range(n) if j != i] for i in range(n)]
    want = []
    for i in range(n):
        gains = [
            max(rewards[j] for j in (i, *rest)) - max(rewards[j] for j in rest)
            for rest in combinations(others[i], k - 1)
        ]
        want.append(n * sum(gains) / math.comb(n, k))
    assert np.allclose(max_at_k(rewards, k=k), want, atol=1e-12)


def test_max_at_k_is_an_unbiased_gradient():
    """Over all groups of 4 of a softmax of three outcomes: d E[best of 2] / d logits."""
    logits = np.array([0.2, -0.5, 0.4])
    value = [0.0, 1.0, 0.3]
    p = np.exp(logits) / np.exp(logits).sum()
    exact = np.zeros(3)
    for a in range(3):
        for b in range(3):
            score = np.eye(3)[a] + np.eye(3)[b] - 2 * p
            exact += p[a] * p[b] * max(value[a], value[b]) * score
    mean = np.zeros(3)
    biased = np.zeros(3)
    for drawn in np.ndindex(3, 3, 3, 3):
        weight = np.prod(p[list(drawn)])
        scores = np.eye(3)[list(drawn)] - p
        rewards = [value[i] for i in drawn]
        mean += weight * (np.array(max_at_k(rewards, k=2)) @ scores) / 4
        biased += weight * (np.array(max_at_k(rewards, k=3)) @ scores) / 4
    assert np.allclose(mean, exact, atol=1e-14)
    assert not np.allclose(biased, exact, atol=1e-2)


def test_max_at_one_is_leave_one_out():
    rewards = [0.1, 0.9, -0.4, 0.3]
    assert np.allclose(max_at_k(rewards, k=1), advantages(rewards, baseline="leave_one_out"))


def test_the_length_weighted_baseline_has_the_least_variance():
    """Among all b, for scores whose squared norm is the length: the minimum of sum l (r - b)^2."""
    rewards, lengths = [1.0, 0.0, 0.25, 1.0], [3, 9, 2, 5]
    baseline = np.polyfit(np.zeros(4), rewards, 0, w=np.sqrt(lengths))[0]
    got = advantages(rewards, lengths, baseline="length_weighted")
    assert np.allclose(got, np.array(rewards) - baseline, atol=1e-12)
    assert not np.allclose(got, np.array(rewards) - np.mean(rewards), atol=1e-2)
    holes = advantages([1.0, None, 0.0, 0.25, 1.0], [3, 50, 9, 2, 5], baseline="length_weighted")
    assert holes == got
    assert length_weighted(rewards, lengths=[4] * 4) == advantages(rewards, baseline="mean")


def test_a_baseline_of_ones_own_may_read_lengths():
    got = advantages([1.0, 0.0], [3, 9], baseline=lambda rewards, lengths: [r / n for r, n in zip(rewards, lengths, strict=True)])
    assert got == [1 / 3, 0.0]


def test_log_partition_lies_between_the_mean_and_the_best():
    rewards = [1.0, 0.0, 0.5, 0.0]
    tau = 0.3
    want = np.array(rewards) - tau * np.log(np.mean(np.exp(np.array(rewards) / tau)))
    assert np.allclose(log_partition(rewards, tau=tau), want, atol=1e-14)
    centred = advantages(rewards, baseline="mean")
    assert np.allclose(log_partition(rewards, tau=1e5), centred, atol=1e-5)
    assert np.allclose(log_partition(rewards, tau=1e-4), np.array(rewards) - 1, atol=1e-3)
    assert math.isfinite(sum(log_partition([1e6, 0.0], tau=1e-3)))


def test_max_likelihood_weighs_rare_success_by_its_inverse():
    for correct in (1, 2, 7):
        rewards = [1.0] * correct + [0.0] * (8 - correct)
        got = max_likelihood(rewards)
        assert got[0] == pytest.approx(8 / correct - 1) and got[-1] == pytest.approx(-1)
    assert max_likelihood([0.0] * 4) == max_likelihood([1.0] * 4) == [0.0] * 4


@pytest.mark.parametrize(
    "baseline",
    ["length_weighted", "log_partition", "max_likelihood", "pass_at_k", "max_at_k"],
)
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_equal_rewards_give_exactly_zero(baseline, value):
    assert advantages([value] * 6, [1, 2, 3, 4, 5, 6], baseline=baseline) == [0.0] * 6


@pytest.mark.parametrize("baseline", ["pass_at_k", "max_at_k"])
def test_fewer_completions_than_a_set_has_give_nothing(baseline):
    assert advantages([1.0, None, 0.0, 0.0], baseline={"use": baseline, "k": 4}) == []
    assert len(advantages([1.0, None, 0.0, 0.0], baseline={"use": baseline, "k": 3})) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: max_likelihood([0.5, -0.1]), "rewards must be 0 or more, and one is -0.1"),
        (lambda: log_partition([1.0, 0.0], tau=0.0), "tau is 0, but must be above 0"),
        (lambda: group_credit(baseline={"use": "pass_at_k", "k": 0}), "k is 0, but a set has"),
        (
            lambda: group_credit(baseline={"use": "length_weighted", "lengths": [1]}),
            "no parameter 'lengths'",
        ),
    ],
)
def test_values_without_a_meaning_are_refused(call, message):
    with pytest.raises(RecipeError, match=message):
        call()


def test_the_deviation_of_the_batch_is_over_all_groups_of_all_processes():
    draw = random.Random(0)
    groups = [group([draw.random() for _ in range(4)], name=str(i)) for i in range(6)]
    groups[2] = group([0.5] * 4, name="2")
    rewards = np.array([[verdict.value for _, verdict in scored_rollouts(one)] for one in groups])
    want = (rewards - rewards.mean(1, keepdims=True)) / (rewards.std(ddof=1) + 1e-4)
    plain = group_credit(baseline="mean", zero_variance="keep")

    def flat(samples):
        return [sample.advantages[-1] for one in samples for sample in one]

    assert np.allclose(flat(batch_scaled(plain)(groups)), want.ravel(), atol=1e-12)

    # Two processes, one after the other: the first run tells each what the other has to say.
    halves = groups[:2], groups[2:]
    said = []
    for half in halves:
        batch_scaled(plain, gather=lambda items: said.append(list(items)) or said[-1])(half)
    calls = len(said) // 2
    got = []
    for half in halves:
        number = iter(range(calls))

        def gather(items, number=number):
            turn = next(number)
            return said[turn] + said[calls + turn]

        got += flat(batch_scaled(plain, gather=gather)(half))
    assert np.allclose(got, want.ravel(), atol=1e-12)
    assert batch_scaled(plain)([]) == []
