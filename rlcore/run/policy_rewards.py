"""Rewards that the learner computes itself, between rollout and credit: `POLICY_REWARDS` of a stage."""

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
    """Groups with the stage's policy rewards added to their verdicts; without such rewards the groups as they are."""
    named = policy_rewards(stage.rewards)
    optim = getattr(stage, "optim", None)
    tokens = optim.micro_batch_tokens if optim else 8192
    made = [
        (spec, build_policy_reward(spec, run.policy, average=average, micro_batch_tokens=tokens))
        for spec in named
    ]

    def score(groups: Sequence[Group]) -> list[Group]:
        scored = list(groups)
        for spec, gains_of in made:
            scored = [
                replace(
                    group,
                    verdicts=[
                        _plus(v, spec.name, spec.weight, g)
                        for v, g in zip(group.verdicts, gains, strict=True)
                    ],
                )
                for group, gains in zip(scored, gains_of(scored), strict=True)
            ]
        return scored

    return score


def _plus(verdict: Verdict, name: str, weight: float, gain: tuple[float, ...]) -> Verdict:
    """The verdict with one more weighted part; one that failed stays as it is."""
    if verdict.value is None:
        return verdict
    value, thought, plain = gain
    parts = {**verdict.parts, name: value, f"{name}/thought": thought, f"{name}/plain": plain}
    return replace(verdict, value=verdict.value + weight * value, parts=parts)
