"""Rewards that the learner's process computes, between rollout and credit: `POLICY_REWARDS`.

They join those of the workers in the verdicts, and only then the stage's aggregate makes one
value of all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rlcore.recipe.build import build_policy_reward, build_rewards, build_rule, policy_rewards
from rlcore.scoring.aggregate import Aggregate, by_rule
from rlcore.scoring.forms import RewardSpec
from rlcore.types import Group, Rollout, Verdict

if TYPE_CHECKING:
    from rlcore.learner.optim import Average
    from rlcore.run.session import Run
    from rlcore.run.student_exam import ExamContext
    from rlcore.stages.base import Stage


def policy_scorer(
    run: Run, stage: Stage, average: Average | None = None
) -> Callable[[Sequence[Group]], list[Group]]:
    """A function that adds the stage's policy rewards to the verdicts of groups.

    Without such rewards it returns the groups unchanged.
    """
    specs = policy_rewards(getattr(stage, "rewards", ()))
    if not specs:
        return list
    rule = build_rule(stage)
    all_specs = build_rewards(stage.rewards)
    optim = getattr(stage, "optim", None)
    tokens = optim.micro_batch_tokens if optim else 8192
    rewards = []
    for spec in specs:
        reward = build_policy_reward(
            spec,
            run.policy,
            average=average,
            micro_batch_tokens=tokens,
            folder_of=lambda model: model_folder(run, model),
            exam_context=exam_context(run, stage) if spec.use == "student_exam" else None,
        )
        rewards.append((spec, reward))

    def score(groups: Sequence[Group]) -> list[Group]:
        parts: list[list[dict[str, float | None]]] = [
            [{} for _ in group.rollouts] for group in groups
        ]
        for spec, reward in rewards:
            for parts_of_group, gains in zip(parts, reward(groups), strict=True):
                for more, gain in zip(parts_of_group, gains, strict=True):
                    more.update(named_parts(spec.name, gain))
        return [
            replace(
                group,
                verdicts=[
                    joined(verdict, more, all_specs, rule, rollout)
                    for verdict, more, rollout in zip(
                        group.verdicts, parts_of_group, group.rollouts, strict=True
                    )
                ],
            )
            for group, parts_of_group in zip(groups, parts, strict=True)
        ]

    return score


def exam_context(run: Run, stage: Stage) -> ExamContext:
    """What the reward student_exam takes from the run, in a stage."""
    from rlcore.run.exam_scores import ExamScores
    from rlcore.run.student import load_student
    from rlcore.run.student_exam import ExamContext

    return ExamContext(
        tasks_of=run.tasks,
        student_of=lambda student, engine: load_student(run, stage, student, engine),
        scores=ExamScores(run.folder.exams, run.accelerator.process_index),
    )


def named_parts(name: str, gain: tuple[float | None, ...]) -> dict[str, float | None]:
    """A reward's value under its name, and the further fields of its NamedTuple, or what is in its
    field `parts`, as `name/field`.
    """
    value, *_ = gain
    further = {field: getattr(gain, field) for field in getattr(gain, "_fields", ())[1:]}
    further |= further.pop("parts", {})
    return {name: value, **{f"{name}/{part}": number for part, number in further.items()}}


def joined(
    verdict: Verdict,
    more: Mapping[str, float | None],
    specs: Sequence[RewardSpec],
    rule: Aggregate,
    rollout: Rollout,
) -> Verdict:
    """The verdict with further parts, in the order of the stage's rewards; a failed verdict
    stays as it is.

    more: parts that are added. specs: all rewards of the stage. Without the value of one that
    has a weight and is not optional there is no verdict.
    """
    if verdict.value is None:
        return verdict
    parts = _in_order({**verdict.parts, **more}, specs)
    for spec in specs:
        missing = spec.name in more and more[spec.name] is None
        if missing and spec.weight != 0 and not spec.optional:
            reason = f"{spec.name} has no value for this completion"
            return Verdict(value=None, status="unscorable", parts=parts, reason=reason)
    return by_rule(
        specs,
        parts,
        rule,
        finished=rollout.finish == "stop",
        tokens=len(rollout.policy_ids),
        status=verdict.status,
        reason=verdict.reason,
    )


def _in_order(
    parts: Mapping[str, float | None], specs: Sequence[RewardSpec]
) -> dict[str, float | None]:
    """The parts by the order of their rewards: the first decides what is correct."""
    ordered = {}
    for spec in specs:
        for name in parts:
            if name == spec.name or name.startswith(f"{spec.name}/"):
                ordered.setdefault(name, parts[name])
    return {**ordered, **parts}


def model_folder(run: Run, model: str) -> str:
    """Where a reward model is: that of a reward_model stage of this run, or what the name
    says.
    """
    own = {stage.label for stage in run.recipe.stages if stage.trains_reward_model}
    return str(run.folder.reward_models / model) if model in own else model
