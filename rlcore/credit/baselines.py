"""Baselines for other aims than the mean reward, and of other shapes than mean and deviation.

Each takes the rewards of a group's scored rollouts, [n], and gives their advantages, [n], or [] where
they are not defined. One with a parameter `lengths` is also given the trained tokens of each, [n].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlcore.errors import RecipeError


def length_weighted(rewards: Sequence[float], *, lengths: Sequence[int]) -> list[float]:
    """OPO (arXiv 2505.23585): r_i - sum_j l_j r_j / sum_j l_j, with l the lengths.

    The baseline of least variance for the score of a whole sequence, if the squared norm of that
    score grows as the length; use with an objective that sums over the sequence (`rloo`).
    """
    if _all_equal(rewards):
        return [0.0] * len(rewards)
    pairs = zip(rewards, lengths, strict=True)
    baseline = sum(reward * length for reward, length in pairs) / sum(lengths)
    return [reward - baseline for reward in rewards]


def log_partition(rewards: Sequence[float], *, tau: float = 0.1) -> list[float]:
    """Kimi k1.5 (arXiv 2501.12599, 2.3.2): r_i - tau log mean_j exp(r_j / tau).

    The group's estimate of tau log Z, of which the mean reward that `method: kimi` takes is the limit
    for large tau; for small tau the best reward of the group. tau: that of objective `kimi`.
    """
    if tau <= 0:
        raise RecipeError(f"baseline log_partition: tau is {tau:g}, but must be above 0")
    if _all_equal(rewards):
        return [0.0] * len(rewards)
    best = max(rewards)
    total = sum(math.exp((reward - best) / tau) for reward in rewards)
    baseline = best + tau * math.log(total / len(rewards))
    return [reward - baseline for reward in rewards]


def max_likelihood(rewards: Sequence[float]) -> list[float]:
    """MaxRL (arXiv 2602.02710): (r - mean(r)) / mean(r), 0 where no completion is rewarded.

    With rewards of 0 and 1 the gradient is that of a truncated expansion of log p, p the success rate
    of the task: tasks that are rarely solved weigh 1 / p. Raises `RecipeError` for a reward below 0.
    """
    if rewards and min(rewards) < 0:
        raise RecipeError(
            f"baseline max_likelihood divides by the mean reward of a group, so rewards must be 0 or "
            f"more, and one is {min(rewards):g}: shift or clip them, or use another baseline"
        )
    if _all_equal(rewards):
        return [0.0] * len(rewards)
    mean = sum(rewards) / len(rewards)
    return [(reward - mean) / mean for reward in rewards]


def pass_at_k(rewards: Sequence[float], *, k: int = 4, passing: float = 1.0) -> list[float]:
    """Pass@k training (arXiv 2508.10751, the analytic form): the mean advantage of all sets of k
    completions that a completion belongs to, in closed form.

    A set earns 1 if one of it is correct. With n completions, w of them wrong, a set earns on average
    R = 1 - C(w, k) / C(n, k), with deviation s = sqrt(R (1 - R)). A correct completion gets
    (1 - R) / s, a wrong one (1 - R - C(w - 1, k - 1) / C(n - 1, k - 1)) / s. Both are 0 where every
    set earns the same. passing: reward from which a completion is correct. k: completions in a set;
    with k = 1 this is GRPO's advantage (deviation over n). Not defined for fewer than k rewards.
    """
    n = len(rewards)
    _check_k("pass_at_k", k)
    if n < k:
        return []
    is_correct = [reward >= passing for reward in rewards]
    wrong = n - sum(is_correct)
    earned = 1 - math.comb(wrong, k) / math.comb(n, k)
    deviation = math.sqrt(earned * (1 - earned))
    if deviation == 0:
        return [0.0] * n
    of_correct = (1 - earned) / deviation
    # Of the sets that a wrong completion is in, these hold wrong ones alone.
    all_wrong = math.comb(wrong - 1, k - 1) / math.comb(n - 1, k - 1)
    of_wrong = (1 - earned - all_wrong) / deviation
    return [of_correct if correct else of_wrong for correct in is_correct]


def max_at_k(rewards: Sequence[float], *, k: int = 4) -> list[float]:
    """PKPO (arXiv 2505.15201, eq. 33): what a completion adds to the best reward of k, without bias.

    A_i is k times the mean, over all sets of k completions that i is in, of the set's best reward less
    the best of the others: n times the paper's s_i with baseline "loo - 1". The mean of A_i grad log
    pi(i) over the group is an unbiased gradient of the expected best reward of k completions, for
    rewards of any scale (pass@k for 0 and 1). Never negative. For k = 1, which has no others, it is
    r less the mean of the other completions. Not defined for fewer than k rewards, or fewer than two.
    """
    n = len(rewards)
    _check_k("max_at_k", k)
    if n < max(k, 2):
        return []
    if _all_equal(rewards):
        return [0.0] * n
    if k == 1:
        total = sum(rewards)
        return [reward - (total - reward) / (n - 1) for reward in rewards]
    # The m-th smallest of the n - 1 others (m from 0) is the best of k - 1 of them in so many sets.
    sets = [math.comb(m, k - 2) for m in range(n - 1)]
    every_set = math.comb(n - 1, k - 1)
    advantages = []
    for index, reward in enumerate(rewards):
        others = sorted([*rewards[:index], *rewards[index + 1 :]])
        gains = [max(0.0, reward - other) for other in others]
        added = sum(count * gain for count, gain in zip(sets, gains, strict=True))
        advantages.append(k * added / every_set)
    return advantages


def _all_equal(rewards: Sequence[float]) -> bool:
    """Whether nothing tells the rewards apart: advantages are then exactly 0, without round-off."""
    return not rewards or min(rewards) == max(rewards)


def _check_k(name: str, k: int) -> None:
    if k < 1:
        raise RecipeError(f"baseline {name}: k is {k}, but a set has at least one completion")
