"""Rewards that the learner computes itself, between rollout and credit: `POLICY_REWARDS`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rlcore.recipe.build import build_policy_reward, policy_rewards
from rlcore.types import Group, Verdict

if TYPE_CHECKING:
    from rlcore.learner.optim import Average
    from rlcore.run.session import Run
    from rlcore.stages.base import Stage


def policy_scorer(
    run: Run, stage: Stage, average: Average | None = None
) -> Callable[[Sequence[Group]], list[Group]]:
    """A function that adds the stage's policy rewards to the verdicts of groups.

    Without such rewards it returns the groups unchanged.
    """
    optim = getattr(stage, "optim", None)
    tokens = optim.micro_batch_tokens if optim else 8192
    rewards = []
    for spec in policy_rewards(stage.rewards):
        reward = build_policy_reward(
            spec, run.policy, average=average, micro_batch_tokens=tokens
        )
        rewards.append((spec, reward))

    def score(groups: Sequence[Group]) -> list[Group]:
        scored = list(groups)
        for spec, reward in rewards:
            gains_of_groups = reward(scored)
            for position, gains in enumerate(gains_of_groups):
                group = scored[position]
                verdicts = [
                    _with_gain(verdict, spec.name, spec.weight, gain)
                    for verdict, gain in zip(group.verdicts, gains, strict=True)
                ]
                scored[position] = replace(group, verdicts=verdicts)
        return scored

    return score


def _with_gain(
    verdict: Verdict,
    name: str,
    weight: float,
    gain: tuple[float, ...],
) -> Verdict:
    """The verdict with one more weighted part; a failed verdict stays as it is."""
    if verdict.value is None:
        return verdict
    value, thought, plain = gain
    parts = {**verdict.parts, name: value, f"{name}/thought": thought, f"{name}/plain": plain}
    return replace(verdict, value=verdict.value + weight * value, parts=parts)
