"""Group baselines: every trained token of a rollout gets its reward minus what its group tells to expect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from rlcore.errors import RecipeError
from rlcore.plugin import Named, build_later
from rlcore.types import Group, Outcome, Rollout, Sample, Task, Verdict

Baseline = Callable[[Sequence[float]], list[float]]
"""From the rewards of a group's scored rollouts, [n], to their advantages, [n]; to [] where these are not defined."""
ZeroVariance = Literal["keep", "drop"]

Credit = Callable[[Sequence[Group]], list[list[Sample]]]
"""Samples of each group, in the order of the groups. A scheme sees several groups at once, so that one that asks an engine for
more continuations can ask for all of them together; it holds the engine itself (a closure or an object)."""


def mean(rewards: Sequence[float]) -> list[float]:
    """r - mean(r): Dr.GRPO."""
    return _centred(rewards)


def mean_std(rewards: Sequence[float], *, epsilon: float = 1e-4) -> list[float]:
    """(r - mean(r)) / (std(r) + epsilon): GRPO; std over n - 1 and epsilon as in TRL (verl: 1e-6). Needs two rewards."""
    n, centred = len(rewards), _centred(rewards)
    std = (sum(value**2 for value in centred) / (n - 1)) ** 0.5 if n > 1 else 0.0
    return [value / (std + epsilon) for value in centred] if n > 1 else []


def leave_one_out(rewards: Sequence[float]) -> list[float]:
    """r - mean of the others = n / (n - 1) (r - mean(r)): RLOO. Needs two rewards."""
    n = len(rewards)
    return [n / (n - 1) * value for value in _centred(rewards)] if n > 1 else []


def none(rewards: Sequence[float]) -> list[float]:
    """r."""
    return list(rewards)


BASELINES = {
    name: f"rlcore.credit.group:{name}" for name in ("mean", "mean_std", "leave_one_out", "none")
}
"""Name in a recipe -> where it is."""


def group_credit(
    *, baseline: Named | Baseline = "mean_std", zero_variance: ZeroVariance = "drop"
) -> Credit:
    """`group_samples` with fixed settings, as a `Credit`. Raises `RecipeError` for a baseline that does not exist."""
    rule = (
        baseline
        if callable(baseline)
        else build_later(baseline, BASELINES, what="baseline", given=1)
    )
    group_samples(
        _EXAMPLE, baseline=rule
    )  # so that one that cannot work is known before a model is loaded
    return lambda groups: [
        group_samples(group, baseline=rule, zero_variance=zero_variance) for group in groups
    ]


def group_samples(
    group: Group, *, baseline: Baseline = mean_std, zero_variance: ZeroVariance = "drop"
) -> list[Sample]:
    """One sample for each scored rollout; the advantage is the same for all its trained tokens.

    Rollouts without a score leave the statistics and the samples. Equal rewards give advantages that are exactly zero under
    every built-in baseline but `none`. `zero_variance="drop"` leaves out a group whose advantages are all zero, so that it does
    not count in the averages of the objective either; "keep" returns its samples.
    """
    scored = [
        (rollout, verdict.value)
        for rollout, verdict in zip(group.rollouts, group.verdicts, strict=True)
        if verdict.value is not None
    ]
    advantages = baseline([value for _, value in scored])
    if not isinstance(advantages, Sequence) or (advantages and len(advantages) != len(scored)):
        found = (
            f"{len(advantages)} advantages"
            if isinstance(advantages, Sequence)
            else f"a {type(advantages).__name__}"
        )
        raise RecipeError(
            f"the baseline must give one advantage for each of the {len(scored)} rewards of a group, not {found}"
        )
    if zero_variance == "drop" and not any(advantages):
        return []
    return [
        Sample(
            id=rollout.id,
            token_ids=rollout.token_ids,
            mask=rollout.mask,
            advantages=[advantage if trained else 0.0 for trained in rollout.mask],
            logprobs=rollout.logprobs,
            version=rollout.version_min,
            temperature=rollout.temperature,
            support=rollout.support,
        )
        for (rollout, _), advantage in zip(scored, advantages, strict=False)
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
            text="",
            finish="stop",
            version=0,
        )
        for i in range(4)
    ],
    verdicts=[Verdict(value=value) for value in (1.0, 0.0, 0.5, 0.0)],
)


def _centred(rewards: Sequence[float]) -> list[float]:
    if not rewards or min(rewards) == max(
        rewards
    ):  # their mean is off by round-off, which a small std would blow up
        return [0.0] * len(rewards)
    average = sum(rewards) / len(rewards)
    return [reward - average for reward in rewards]


def outcome(index: int, group: Group, samples: Sequence[Sample]) -> Outcome:
    """What a curriculum learns of the group at position `index` of its task set, given the samples credit made of it.

    Only samples of the group's own rollouts count: demonstrations say nothing of what the policy can do, and continuations belong
    to an answer that is counted.
    """
    own = {rollout.id for rollout in group.rollouts}
    rewards = tuple(verdict.value for verdict in group.verdicts if verdict.value is not None)
    total = 0.0
    for sample in samples:
        if sample.stream != "policy" or sample.id not in own:
            continue
        trained = [
            abs(value) for value, on in zip(sample.advantages, sample.mask, strict=True) if on
        ]
        total += sum(trained) / len(trained) if trained else 0.0
    return Outcome(
        index=index,
        category=group.task.category,
        rewards=rewards,
        abs_advantage=total / len(rewards) if rewards else 0.0,
    )
