"""Credit over all samples of a step against numpy, alone and as two processes; demonstrations that stand in or join."""

import numpy as np
import pytest
from test_group_credit import group

from rlcore.credit import (
    demonstration_sample,
    exponential_weights,
    gated,
    group_credit,
    mixed,
    outcome,
    whitened,
)
from rlcore.types import Group, Rollout, Task, Verdict

REWARDS = [[1.0, 0.0, 0.0], [1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
LENGTHS = [[5, 2, 9], [3, 1], [4, 4, 6, 2]]


def groups(rewards=REWARDS, lengths=LENGTHS):
    made = []
    for number, (values, sizes) in enumerate(zip(rewards, lengths, strict=True)):
        rollouts = [
            Rollout.from_tokens(
                id=f"{number}/{i}", task_id=str(number), token_ids=[1, *range(2, n + 2)], mask=[False] + [True] * n,
                logprobs=[0.0] + [-1.0] * n, text="", finish="stop", version=0,
            )
            for i, n in enumerate(sizes)
        ]  # fmt: skip
        verdicts = [Verdict(value=v) for v in values]
        made.append(
            Group(
                task=Task(id=str(number), prompt="p", demonstration="d"),
                rollouts=rollouts,
                verdicts=verdicts,
            )
        )
    return made


def tokens_of(samples):
    """Advantages of all trained tokens, in order."""
    return np.concatenate(
        [np.array(s.advantages)[np.array(s.mask)] for per_group in samples for s in per_group]
    )


def on_two_processes(scheme):
    """Advantages when the first group is one process's and the others another's: `scheme(gather)` makes the credit."""
    shares, parts = [], (groups()[:1], groups()[1:])

    def note(items):
        shares.extend(items := list(items))
        return items

    for part in parts:
        scheme(note)(part)
    return np.concatenate([tokens_of(scheme(lambda items: shares)(part)) for part in parts])


def test_whitening_is_over_all_tokens_of_all_processes():
    raw = np.concatenate(
        [
            [r] * n
            for rs, ns in zip(REWARDS, LENGTHS, strict=True)
            for r, n in zip(rs, ns, strict=True)
        ]
    )
    keep = group_credit(baseline="none", zero_variance="keep")
    want = (raw - raw.mean()) / raw.std()
    assert np.allclose(tokens_of(whitened(keep)(groups())), want, atol=1e-14)
    assert np.allclose(on_two_processes(lambda gather: whitened(keep, gather)), want, atol=1e-14)
    per_rank = np.concatenate(
        [tokens_of(whitened(keep)(part)) for part in (groups()[:1], groups()[1:])]
    )
    assert not np.allclose(per_rank, want, atol=1e-2)
    by_answer = np.array([r for rs in REWARDS for r in rs])
    assert not np.allclose(
        want.min(), (by_answer.min() - by_answer.mean()) / by_answer.std(), atol=1e-2
    )


def test_group_mean_first_then_whitening():
    centred = [np.array(r) - np.mean(r) for r in REWARDS]
    raw = np.concatenate(
        [
            [r] * n
            for rs, ns in zip(centred, LENGTHS, strict=True)
            for r, n in zip(rs, ns, strict=True)
        ]
    )
    got = tokens_of(whitened(group_credit(baseline="mean", zero_variance="keep"))(groups()))
    assert np.allclose(got, (raw - raw.mean()) / raw.std(), atol=1e-14)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e9])
def test_whitening_equal_rewards_gives_zeros(value):
    keep = group_credit(baseline="none", zero_variance="keep")
    assert not tokens_of(whitened(keep)(groups([[value] * 3], [[5, 2, 9]]))).any()
    assert whitened(keep)([]) == []


def test_exponential_weights_have_mean_one_over_sequences():
    base = group_credit(baseline="mean", zero_variance="keep")
    a = np.concatenate([np.array(r) - np.mean(r) for r in REWARDS])
    w = np.minimum(np.exp(a / 0.3), 5.0)
    assert (w == 5.0).any()
    want = np.repeat(w / w.mean(), np.concatenate(LENGTHS))
    assert np.allclose(
        tokens_of(exponential_weights(base, beta=0.3, cap=5.0)(groups())), want, atol=1e-14
    )
    assert np.allclose(
        on_two_processes(lambda g: exponential_weights(base, g, beta=0.3, cap=5.0)),
        want,
        atol=1e-14,
    )
    assert exponential_weights(base)([]) == []


def show(task):
    return demonstration_sample(f"{task.id}/shown", [1], [2, 3])


@pytest.mark.parametrize(
    ("rewards", "threshold", "imitated"),
    [
        ([0.0] * 4, 0.0, True),
        ([0.0, 0.0, 0.0, 1.0], 0.0, False),
        ([0.0, 0.0, 0.0, 1.0], 0.25, True),
        ([0.0, 0.0, 1.0, 1.0], 0.25, False),
        ([1.0] * 4, 0.25, False),
        ([0.0, None, 0.0, 0.0], 0.0, True),
    ],
)
def test_the_gate_is_crossed_above_it_only(rewards, threshold, imitated):
    base = group_credit()
    [samples] = gated(base, show, threshold=threshold)([group(rewards)])
    if imitated:
        [sample] = samples
        assert (
            sample.stream == "demonstration"
            and sample.advantages == [0.0, 1.0, 1.0]
            and sample.logprobs is None
        )
        assert outcome(0, group(rewards), samples).abs_advantage == 0
    else:
        assert samples == base([group(rewards)])[0]


def test_an_unscored_group_and_a_solved_one_teach_nothing():
    assert gated(group_credit(), show)([group([None, None]), group([1.0, 1.0])]) == [[], []]
    assert mixed(group_credit(), show)([group([None, None])]) == [[]]


def test_a_mixed_in_demonstration_counts_in_its_groups_statistics():
    rewards = [0.0, 0.0, 1.0]
    [samples] = mixed(group_credit(), show)([group(rewards)])
    r = np.array([*rewards, 1.0])
    want = (r - r.mean()) / (r.std(ddof=1) + 1e-4)
    assert np.allclose([s.advantages[-1] for s in samples], want, atol=1e-14)
    assert [s.stream for s in samples] == ["policy"] * 3 + ["demonstration"]
    assert (
        samples[-1].logprobs is None
        and samples[-1].version is None
        and samples[-1].mask == [False, True, True]
    )
    assert not np.allclose(
        want[:3], [s.advantages[-1] for s in group_credit()([group(rewards)])[0]], atol=1e-2
    )
    [failed] = mixed(group_credit(), show)([group([0.0, 0.0])])
    assert [s.advantages[-1] > 0 for s in failed] == [False, False, True]
