"""Group baselines: every trained token of a rollout gets its reward minus what the rewards of its
group predict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from rlcore.errors import RecipeError
from rlcore.plugin import Named, build_later, signature
from rlcore.types import Group, Outcome, Rollout, Sample, Task, Verdict

Baseline = Callable[..., list[float]]
"""From the rewards of a group's scored rollouts, [n], to their advantages, [n]; to [] where these
are not defined. One with a parameter `lengths` also gets the trained tokens of each rollout, [n].
"""
ZeroVariance = Literal["keep", "drop"]

Credit = Callable[[Sequence[Group]], list[list[Sample]]]
"""Samples of each group, in the order of the groups."""


def mean(rewards: Sequence[float]) -> list[float]:
    """r - mean(r): Dr.GRPO."""
    return _centred(rewards)


def mean_std(rewards: Sequence[float], *, epsilon: float = 1e-4) -> list[float]:
    """(r - mean(r)) / (std(r) + epsilon): GRPO; std over n - 1 and epsilon as in TRL (verl:
    1e-6). Needs two rewards.
    """
    n = len(rewards)
    if n < 2:
        return []
    centred = _centred(rewards)
    std = (sum(value**2 for value in centred) / (n - 1)) ** 0.5
    return [value / (std + epsilon) for value in centred]


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """r - mean of the others = n / (n - 1) (r - mean(r)): RLOO. Needs two rewards."""
    n = len(rewards)
    if n < 2:
        return []
    return [n / (n - 1) * value for value in _centred(rewards)]


def none(rewards: Sequence[float]) -> list[float]:
    """r."""
    return list(rewards)


def zero(rewards: Sequence[float]) -> list[float]:
    """0: rewards are measured and not learned from, as where a teacher is all the signal."""
    return [0.0] * len(rewards)


def _centred(rewards: Sequence[float]) -> list[float]:
    # The mean of equal rewards is off by round-off, which dividing by a small deviation would
    # blow up.
    if not rewards or min(rewards) == max(rewards):
        return [0.0] * len(rewards)
    average = sum(rewards) / len(rewards)
    return [reward - average for reward in rewards]


BASELINES = {
    name: f"rlcore.credit.group:{name}"
    for name in ("mean", "mean_std", "leave_one_out", "none", "zero")
} | {
    name: f"rlcore.credit.baselines:{name}"
    for name in ("length_weighted", "log_partition", "max_likelihood", "pass_at_k", "max_at_k")
}
"""Name in a recipe -> where it is."""


def group_credit(
    *, baseline: Named | Baseline = "mean_std", zero_variance: ZeroVariance = "drop"
) -> Credit:
    """`group_samples` with fixed settings, as a `Credit`.

    Raises `RecipeError` for a baseline that does not exist.
    """
    if callable(baseline):
        rule = baseline
    else:
        rule = build_later(baseline, BASELINES, what="baseline", given=1, lengths=None)
    # A baseline that cannot work is reported before a model is loaded.
    group_samples(_EXAMPLE, baseline=rule)

    def credit(groups: Sequence[Group]) -> list[list[Sample]]:
        return [
            group_samples(group, baseline=rule, zero_variance=zero_variance) for group in groups
        ]

    return credit


def group_samples(
    group: Group, *, baseline: Baseline = mean_std, zero_variance: ZeroVariance = "drop"
) -> list[Sample]:
    """One sample for each scored rollout (for each of its sequences, if there are several); the advantage is the same for all its trained tokens,
    in all its turns.

    Rollouts without a score leave the statistics and the samples. Equal rewards give advantages
    that are exactly zero under every built-in baseline but `none`. `zero_variance="drop"` leaves
    out a group whose advantages are all zero, so that it does not count in the averages of the
    objective either; "keep" returns its samples.
    """
    scored = scored_rollouts(group)
    advantages = _advantages(baseline, scored)
    _check_advantages(advantages, len(scored))
    if zero_variance == "drop" and not any(advantages):
        return []
    # A baseline that is not defined for so few rewards gives no advantages, and there are no
    # samples then.
    return [
        sample
        for (rollout, _), advantage in zip(scored, advantages, strict=False)
        for sample in rollout_samples(rollout, advantage)
    ]


def _advantages(baseline: Baseline, scored: Sequence[tuple[Rollout, Verdict]]) -> list[float]:
    """What the baseline gives; one with a parameter `lengths` is given the trained tokens of each."""
    rewards = [verdict.value for _, verdict in scored]
    if "lengths" not in signature(baseline).parameters:
        return baseline(rewards)
    lengths = [
        sum(map(sum, (part.mask for part in rollout.sequences))) for rollout, _ in scored
    ]
    return baseline(rewards, lengths=lengths)


def _check_advantages(advantages: object, n: int) -> None:
    if not isinstance(advantages, Sequence):
        given = f"a {type(advantages).__name__}"
    elif advantages and len(advantages) != n:
        given = f"{len(advantages)} advantages"
    else:
        return
    raise RecipeError(
        f"the baseline must give one advantage for each of the {n} rewards of a group, not {given}"
    )


def rollout_samples(rollout: Rollout, advantage: float) -> list[Sample]:
    """One sample for each sequence of a rollout; their weights add up to 1."""
    sequences = rollout.sequences
    return [
        Sample(
            id=rollout.id,
            token_ids=sequence.token_ids,
            mask=sequence.mask,
            advantages=[advantage if trained else 0.0 for trained in sequence.mask],
            logprobs=sequence.logprobs,
            version=sequence.version_min,
            temperature=sequence.temperature,
            support=sequence.support,
            weight=1 / len(sequences),
            part=part,
        )
        for part, sequence in enumerate(sequences)
    ]


_EXAMPLE = Group(
    task=Task(id="example", prompt=""),
    rollouts=[
        Rollout.from_tokens(
            id=f"example#{i}",
            task_id="example",
            token_ids=[0, 0],
            mask=[False, True],
            logprobs=[0.0, 0.0],
        )
        for i in range(4)
    ],
    verdicts=[Verdict(value=value) for value in (1.0, 0.0, 0.5, 0.0)],
)


def scored_rollouts(group: Group) -> list[tuple[Rollout, Verdict]]:
    """The rollouts of a group whose verdict has a value, with it."""
    pairs = zip(group.rollouts, group.verdicts, strict=True)
    return [(rollout, verdict) for rollout, verdict in pairs if verdict.value is not None]


def outcome(index: int, group: Group, samples: Sequence[Sample]) -> Outcome:
    """What a curriculum learns of the group at position `index` of its task set, given the
    samples credit made of it.

    Only samples of the group's own rollouts count: demonstrations say nothing of what the policy
    can do, and continuations belong to a completion that is counted.
    """
    scored = scored_rollouts(group)
    parts = {rollout.id: len(rollout.sequences) for rollout in group.rollouts}
    total = 0.0
    for sample in samples:
        if sample.stream == "policy" and sample.id in parts:
            total += _abs_advantage(sample) / parts[sample.id]
    return Outcome(
        index=index,
        category=group.task.category,
        rewards=tuple(verdict.value for _, verdict in scored),
        scores=tuple(verdict.first for _, verdict in scored if verdict.first is not None),
        abs_advantage=total / len(scored) if scored else 0.0,
    )


def _abs_advantage(sample: Sample) -> float:
    """Mean |advantage| of the trained tokens."""
    pairs = zip(sample.advantages, sample.mask, strict=True)
    trained = [abs(advantage) for advantage, on in pairs if on]
    return sum(trained) / len(trained) if trained else 0.0
