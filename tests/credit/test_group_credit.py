"""Group baselines against numpy, and what happens to rollouts without a score."""

import numpy as np
import pytest

from rlcore.credit import demonstration_sample, group_credit, group_samples, outcome
from rlcore.credit.group import mean
from rlcore.errors import RecipeError
from rlcore.types import Group, Rollout, Task, Verdict

REWARDS = [1.0, 0.0, 0.25, 0.0, 1.0]


def group(rewards):
    rollouts = [
        Rollout.from_tokens(
            id=f"r{i}",
            task_id="t",
            token_ids=[7, 8, 9, 1],
            mask=[False, False, True, True],
            logprobs=[0.0, 0.0, -0.5, -0.1 * i],
            text="x",
            finish="stop",
            versions=[0, 0, 4, 3],
        )
        for i in range(len(rewards))
    ]
    verdicts = [
        Verdict(value=r) if r is not None else Verdict(value=None, status="timed-out")
        for r in rewards
    ]
    return Group(
        task=Task(id="t", prompt="p", category="easy"), rollouts=rollouts, verdicts=verdicts
    )


def advantages(rewards, **settings):
    return [sample.advantages[-1] for sample in group_credit(**settings)([group(rewards)])[0]]


def test_baselines_against_numpy():
    r = np.array(REWARDS)
    n = len(r)
    others = (r.sum() - r) / (n - 1)
    assert advantages(REWARDS, baseline="none") == REWARDS
    assert np.allclose(advantages(REWARDS, baseline="mean"), r - r.mean(), atol=1e-15)
    assert np.allclose(
        advantages(REWARDS, baseline="mean_std"),
        (r - r.mean()) / (r.std(ddof=1) + 1e-4),
        atol=1e-14,
    )
    assert np.allclose(advantages(REWARDS, baseline="leave_one_out"), r - others, atol=1e-15)
    assert not np.allclose(
        advantages(REWARDS, baseline="mean_std"), (r - r.mean()) / (r.std() + 1e-4), atol=1e-2
    )


def test_rloo_is_dr_grpo_times_g_over_g_minus_one_and_advantages_sum_to_zero():
    mean, loo = advantages(REWARDS, baseline="mean"), advantages(REWARDS, baseline="leave_one_out")
    assert np.allclose(loo, np.array(mean) * 5 / 4, atol=1e-15)
    for baseline in ("mean", "mean_std", "leave_one_out"):
        assert abs(sum(advantages(REWARDS, baseline=baseline))) < 1e-12


@pytest.mark.parametrize("baseline", ["mean", "mean_std", "leave_one_out"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, -1e9])
def test_equal_rewards_give_exactly_zero_or_nothing(baseline, value):
    assert advantages([value] * 3, baseline=baseline, zero_variance="keep") == [0.0] * 3
    assert advantages([value] * 3, baseline=baseline) == []


def test_the_unscored_leave_statistics_and_samples():
    with_holes = [1.0, None, 0.0, 0.25, None, 0.0, 1.0]
    for baseline in ("mean", "mean_std", "leave_one_out", "none"):
        assert advantages(with_holes, baseline=baseline) == advantages(REWARDS, baseline=baseline)
    ids = [sample.id for sample in group_samples(group(with_holes), baseline=mean)]
    assert ids == ["r0", "r2", "r3", "r5", "r6"]


def test_too_few_scored_rollouts():
    assert advantages([None, None], baseline="none") == []
    assert advantages([1.0, None], baseline="none") == [1.0]
    assert advantages([1.0, None], baseline="mean", zero_variance="keep") == [0.0]
    for baseline in ("mean_std", "leave_one_out"):
        assert advantages([1.0, None], baseline=baseline, zero_variance="keep") == []


def test_advantages_sit_on_the_trained_tokens_and_the_version_is_the_oldest():
    sample = group_samples(group([1.0, 0.0]), baseline=mean)[0]
    assert sample.advantages == [0.0, 0.0, 0.5, 0.5]
    assert sample.logprobs == [0.0, 0.0, -0.5, -0.0]
    assert sample.version == 3 and sample.stream == "policy"


def test_group_credit_keeps_groups_apart():
    credit = group_credit(baseline="mean")
    both = credit([group([1.0, 0.0]), group([5.0, 5.0])])
    assert [[sample.advantages[-1] for sample in samples] for samples in both] == [[0.5, -0.5], []]


def test_a_baseline_has_parameters_of_its_own():
    r = np.array(REWARDS)
    wide = advantages(REWARDS, baseline={"use": "mean_std", "epsilon": 1.0})
    assert np.allclose(wide, (r - r.mean()) / (r.std(ddof=1) + 1.0), atol=1e-14)
    assert advantages(REWARDS, baseline=lambda rewards: [value * 2 for value in rewards]) == [
        2 * value for value in REWARDS
    ]
    with pytest.raises(RecipeError, match="no baseline 'meen'; did you mean 'mean'"):
        group_credit(baseline="meen")
    for wrong, found in (([0.5], "1 advantages"), (None, "a NoneType"), ("up", "2 advantages")):
        with pytest.raises(
            RecipeError, match=f"one advantage for each of the 4 rewards of a group, not {found}"
        ):
            group_credit(baseline=lambda rewards, wrong=wrong: wrong)
    with pytest.raises(RecipeError, match="'epsilon' must be a valid number, not 'small'"):
        group_credit(baseline={"use": "mean_std", "epsilon": "small"})


def test_outcome_tells_the_curriculum():
    one = group([1.0, 0.0, None, 0.0])
    seen = outcome(17, one, group_samples(one, baseline=mean))
    assert (seen.index, seen.category, seen.rewards) == (17, "easy", (1.0, 0.0, 0.0))
    assert seen.abs_advantage == pytest.approx((2 / 3 + 1 / 3 + 1 / 3) / 3)
    flat = group([1.0, 1.0])
    assert outcome(0, flat, group_samples(flat)).abs_advantage == 0
    assert outcome(0, group([None]), []).rewards == ()


def test_demonstration():
    sample = demonstration_sample("d", [1, 2], [3], weight=0.5)
    assert (sample.token_ids, sample.mask, sample.advantages) == (
        [1, 2, 3],
        [False, False, True],
        [0, 0, 1],
    )
    assert sample.logprobs is None and sample.version is None and sample.weight == 0.5
    with pytest.raises(ValueError, match="nothing predicts the first token"):
        demonstration_sample("d", [], [3])
