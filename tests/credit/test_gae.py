"""GAE against the weighted average of k-step advantages that defines it (arXiv 1506.02438, eq. 14-16), in float64 by double sums."""

import random

import pytest

from rlcore.credit.gae import gae, length_adaptive, reward_samples, token_rewards, with_values
from rlcore.types import Episode, Group, Rollout, Task, Turn, Verdict


def k_step(rewards, values, t, k, gamma):
    """A^(k)_t = r_t + gamma r_(t+1) + ... + gamma^(k-1) r_(t+k-1) + gamma^k V_(t+k) - V_t."""
    earned = sum(gamma**i * rewards[t + i] for i in range(k))
    after = values[t + k] if t + k < len(values) else 0.0
    return earned + gamma**k * after - values[t]


def reference(rewards, values, gamma, lam):
    """(1 - lambda) (A^(1) + lambda A^(2) + ...), where all A^(k) beyond the end equal the last."""
    advantages = []
    for t in range(len(rewards)):
        left = len(rewards) - t
        total = sum(
            (1 - lam) * lam ** (k - 1) * k_step(rewards, values, t, k, gamma)
            for k in range(1, left)
        )
        advantages.append(total + lam ** (left - 1) * k_step(rewards, values, t, left, gamma))
    return advantages


@pytest.mark.parametrize("seed", range(30))
def test_one_rollout(seed):
    draw = random.Random(seed)
    n = draw.randint(1, 12)
    rewards = [draw.gauss(0, 1) for _ in range(n)]
    values = [draw.gauss(0, 1) for _ in range(n)]
    gamma, lam = draw.choice([1.0, draw.random()]), draw.choice([0.0, 1.0, draw.random()])
    expected = reference(rewards, values, gamma, lam)
    assert gae(rewards, values, gamma=gamma, lam=lam) == pytest.approx(expected, abs=1e-12)


def random_rollout(draw, name):
    """Turns of random lengths, some empty, some of which replace the conversation before them."""
    turns = [Turn(role="prompt", token_ids=[0] * draw.randint(1, 3))]
    rewards = []
    for number in range(draw.randint(1, 4)):
        if number:
            role = draw.choice(["observation", "observation", "prompt"])
            turns.append(Turn(role=role, token_ids=[1] * draw.randint(1, 4)))
        length = draw.choice([0, 1, 2, 5])
        turns.append(
            Turn(
                role="completion",
                token_ids=[2] * length,
                logprobs=[-1.0] * length,
                versions=[0] * length,
                finish="stop",
            )
        )
        rewards.append(draw.gauss(0, 1))
    episode = Episode(
        messages=[],
        prompt_messages=0,
        rewards=rewards,
        states=[None] * len(rewards),
        ending="done",
    )
    return Rollout(id=name, task_id="t", turns=tuple(turns), text="", episode=episode)


def rewards_at_turn_ends(rollout, value):
    """r_t of the trained tokens, from the turns alone."""
    of_turns = list(rollout.episode.rewards)
    of_turns[-1] += value - sum(of_turns)
    flat, waiting = [], 0.0
    for turn, reward in zip(
        [turn for turn in rollout.turns if turn.role == "completion"], of_turns, strict=True
    ):
        flat += [0.0] * len(turn.token_ids)
        if not flat:
            waiting += reward
            continue
        if waiting:
            flat[0] += waiting
            waiting = 0.0
        flat[-1] += reward
    return flat


@pytest.mark.parametrize("seed", range(60))
def test_whole_rollouts_with_observations_and_rewards_of_turns(seed):
    """What an environment wrote is no step, wherever it stands; values at its tokens are never read."""
    draw = random.Random(seed)
    gamma, lam, value_lambda = draw.random(), draw.random(), draw.choice([1.0, draw.random()])
    rollouts = [random_rollout(draw, f"t#{i}") for i in range(3)]
    verdicts = [Verdict(value=draw.gauss(0, 1)), Verdict(value=None, status="failed"), Verdict(value=1.0)]
    groups = [Group(task=Task(id="t", prompt=""), rollouts=rollouts, verdicts=verdicts)]
    samples = reward_samples(groups)
    assert {sample.id for sample in samples[0]} <= {"t#0", "t#2"}
    values = [[[draw.gauss(0, 1) for _ in s.token_ids] for s in samples[0]]]
    credited, returns = with_values(
        groups,
        samples,
        values,
        gamma=gamma,
        policy_lambda=lambda length: lam / (1 + length),
        value_lambda=value_lambda,
    )
    for rollout, verdict in ((rollouts[0], verdicts[0]), (rollouts[2], verdicts[2])):
        of_rollout = [i for i, sample in enumerate(samples[0]) if sample.id == rollout.id]

        def trained(rows, of_rollout=of_rollout):
            return [
                x
                for i in of_rollout
                for x, on in zip(rows[i], samples[0][i].mask, strict=True)
                if on
            ]

        flat = trained(values[0])
        rewards = rewards_at_turn_ends(rollout, verdict.value)
        assert token_rewards(rollout, verdict) == pytest.approx(rewards, abs=1e-12)
        assert len(rewards) == len(flat)
        if flat:
            assert sum(rewards) == pytest.approx(verdict.value)
        expected = reference(rewards, flat, gamma, lam / (1 + len(flat)))
        got = trained([sample.advantages for sample in credited[0]])
        assert got == pytest.approx(expected, abs=1e-12)
        targets = reference(rewards, flat, gamma, value_lambda)
        expected_returns = [a + v for a, v in zip(targets, flat, strict=True)]
        assert trained(returns[0]) == pytest.approx(expected_returns, abs=1e-12)
        for i in of_rollout:
            outside = [
                (advantage, target)
                for advantage, target, on in zip(
                    credited[0][i].advantages, returns[0][i], samples[0][i].mask, strict=True
                )
                if not on
            ]
            assert set(outside) <= {(0.0, 0.0)}


def test_without_discount_lambda_1_is_the_return_less_the_value():
    """VC-PPO's targets, and the reason why a completion with reward 0 and perfect values gets no gradient."""
    assert gae([0.0, 0.0, 1.0], [0.25, 0.5, 1.0], gamma=1.0, lam=1.0) == [0.75, 0.5, 0.0]
    assert gae([0.0, 0.0, 1.0], [1.0, 1.0, 1.0], gamma=1.0, lam=0.3) == [0.0, 0.0, 0.0]


def test_vapo_s_lambda_grows_with_the_length():
    assert length_adaptive(0.05, 100) == pytest.approx(0.8)
    assert length_adaptive(0.05, 1000) == pytest.approx(0.98)
    assert length_adaptive(0.05, 7) == length_adaptive(0.05, 0) == 0.0
    # the sum of the weights lambda^i is alpha x length, up to the rollout's end
    lam = length_adaptive(0.05, 4000)
    assert sum(lam**i for i in range(4000)) == pytest.approx(0.05 * 4000, rel=1e-6)


def test_a_rollout_without_an_environment_is_rewarded_at_its_last_token():
    rollout = Rollout.from_tokens(
        id="a", task_id="t", token_ids=[0, 0, 5, 6, 7], mask=[False] * 2 + [True] * 3, logprobs=[0.0] * 5
    )
    assert token_rewards(rollout, Verdict(value=0.5)) == [0.0, 0.0, 0.5]
