"""Generalised advantage estimation (GAE, arXiv 1506.02438): credit for each token from a critic's values.

Time t counts the tokens that the policy wrote in a rollout, over all its turns: what an environment
wrote in between is no step, so the state after the last token of a turn is the one before the first
token of the next. V_t is the value of the state before token t, and 0 after the last token.

    delta_t = r_t + gamma V_(t+1) - V_t
    A_t     = delta_t + gamma lambda A_(t+1)
    R_t     = A_t + V_t                          what the critic learns, by a lambda of its own
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from rlcore.credit.group import group_samples, none, scored_rollouts
from rlcore.credit.turns import turn_rewards
from rlcore.types import Group, Rollout, Sample, Verdict


def gae(
    rewards: Sequence[float], values: Sequence[float], *, gamma: float, lam: float
) -> list[float]:
    """A_t, [n], of the rewards r_t and values V_t of one rollout, [n] each."""
    advantages = [0.0] * len(rewards)
    advantage = next_value = 0.0
    for t in reversed(range(len(rewards))):
        delta = rewards[t] + gamma * next_value - values[t]
        advantage = delta + gamma * lam * advantage
        advantages[t] = advantage
        next_value = values[t]
    return advantages


def length_adaptive(alpha: float, length: int) -> float:
    """VAPO's lambda for a rollout of `length` tokens, 1 - 1 / (alpha length) (arXiv 2504.05118, eq. 10).

    So the weights of the temporal differences sum to about alpha x length. 0 where alpha x length is below 1.
    """
    return max(0.0, 1 - 1 / (alpha * length)) if length else 0.0


def reward_samples(groups: Sequence[Group]) -> list[list[Sample]]:
    """The samples of each group's scored rollouts, before a critic's values are known; groups of equal rewards stay."""
    return [group_samples(group, baseline=none, zero_variance="keep") for group in groups]


def with_values(
    groups: Sequence[Group],
    samples: Sequence[Sequence[Sample]],
    values: Sequence[Sequence[Sequence[float]]],
    *,
    gamma: float,
    policy_lambda: Callable[[int], float],
    value_lambda: float,
) -> tuple[list[list[Sample]], list[list[list[float]]]]:
    """The samples with GAE's advantages, and the returns R_t that the critic is to learn.

    samples: as `reward_samples` gives them. values and returns: [T] for each sample, read and set where its mask is True.
    policy_lambda: from the number of tokens of a rollout to the lambda of its advantages.
    """
    credited = []
    returns = []
    for group, of_group, values_of_group in zip(groups, samples, values, strict=True):
        rewards_of = {
            rollout.id: token_rewards(rollout, verdict)
            for rollout, verdict in scored_rollouts(group)
        }
        new_samples = list(of_group)
        new_returns = [[0.0] * len(sample.token_ids) for sample in of_group]
        for id, places in _places(of_group).items():
            rewards = rewards_of[id]
            flat = [values_of_group[index][position] for index, position in places]
            lam = policy_lambda(len(places))
            advantages = gae(rewards, flat, gamma=gamma, lam=lam)
            errors = gae(rewards, flat, gamma=gamma, lam=value_lambda)
            changed = {index: [0.0] * len(of_group[index].token_ids) for index, _ in places}
            for t, (index, position) in enumerate(places):
                changed[index][position] = advantages[t]
                new_returns[index][position] = errors[t] + flat[t]
            for index, of_sample in changed.items():
                new_samples[index] = replace(of_group[index], advantages=of_sample)
        credited.append(new_samples)
        returns.append(new_returns)
    return credited, returns


def token_rewards(rollout: Rollout, verdict: Verdict) -> list[float]:
    """r_t of the tokens that the policy wrote, [n]: a turn's reward at its last token, and they add up to the verdict's value.

    Without an environment all of it is at the last token. The reward of a turn without a token is at the token before it.
    """
    lengths = [end - start for part in rollout.sequences for start, end in part.completions]
    if rollout.episode is None:
        of_turns = [0.0] * (len(lengths) - 1) + [verdict.value or 0.0]
    else:
        of_turns = turn_rewards(rollout, verdict)
    rewards = [0.0] * sum(lengths)
    written = 0
    for length, reward in zip(lengths, of_turns, strict=True):
        written += length
        if rewards:
            rewards[max(0, written - 1)] += reward
    return rewards


def _places(samples: Sequence[Sample]) -> dict[str, list[tuple[int, int]]]:
    """By rollout id, (index of the sample, position in it) of each trained token, in the order in which they were written."""
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, sample in sorted(enumerate(samples), key=lambda pair: pair[1].part):
        positions = [position for position, trained in enumerate(sample.mask) if trained]
        places[sample.id] += [(index, position) for position in positions]
    return places
