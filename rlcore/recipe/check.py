"""What can be found out about a recipe without a model: does all of it exist, and does its data agree with its rewards."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from rlcore.credit.guided import STREAM
from rlcore.errors import RecipeError, RewardError
from rlcore.goldcheck import check_gold
from rlcore.objective.term import Objective
from rlcore.plugin import find
from rlcore.recipe import schema
from rlcore.recipe.build import (
    POLICY_REWARDS,
    SAMPLERS,
    build_budget,
    build_credit,
    build_gate,
    build_objective,
    build_policy_reward,
    build_rewards,
    build_scorer,
    build_second_round,
    build_step_values,
    build_task_sampler,
    build_tasks,
    credit_weights,
    policy_rewards,
)
from rlcore.types import Group, Prefix, Task

SHOWN_EXCEPTIONS = 10
"""Exceptions that `check_answers` prints of one task set."""


def check(recipe: schema.Recipe) -> list[str]:
    """Build what can be built without a model; return the numbers that follow from the recipe, one sentence each.

    Raises the wing's own error for a preset, parameter, reward, column or data set that does not exist.
    """
    find(recipe.sampler.kind, dict.fromkeys(SAMPLERS, "rlcore.rollout.sampler:Sampler"), what="sampler")  # vLLM may be absent
    facts = []
    for name, section in recipe.tasks.items():
        tasks = build_tasks(section)
        facts.append(f"tasks {name}: {len(tasks):,} ({section.kind}), first: {str(tasks[0].prompt)[:60]!r}")
    for i, stage in enumerate(recipe.stages):
        label = stage.name or stage.kind
        if isinstance(stage, schema.OfflineStage | schema.PreferStage):
            _check_data(recipe, i, stage)
        if isinstance(stage, schema.RlStage | schema.EvalStage | schema.SampleStage):
            _check_rewards(stage)
        if isinstance(stage, schema.SftStage | schema.OfflineStage | schema.PreferStage):
            what = {"sft": "demonstrations", "offline": "stored answers", "prefer": "pairs"}[stage.kind]
            facts.append(f"{label}: {stage.steps} steps x {stage.batch_size} {what} = {stage.steps * stage.batch_size:,}")
        if isinstance(stage, schema.RlStage):
            facts.append(f"{label}: {_check_rl(stage, build_tasks(recipe.tasks[stage.tasks]))}")
    return facts


def _check_rewards(stage: schema.RlStage | schema.EvalStage | schema.SampleStage) -> None:
    build_scorer(stage).close()
    for spec in policy_rewards(stage.rewards):
        build_policy_reward(spec, None)
    if isinstance(stage, schema.SampleStage):
        build_step_values(stage, _no_sampler, str)


def _check_rl(stage: schema.RlStage, tasks: Sequence[Task]) -> str:
    """How large its steps are, in words."""
    build_task_sampler(stage, tasks, seed=0)
    build_gate(stage)
    build_budget(stage)
    build_second_round(stage.second_round)
    _check_streams(stage, build_objective(stage.objective, max_tokens=stage.sampling.max_tokens))
    build_credit(stage.credit, weights=credit_weights(stage), values=build_step_values(stage, _no_sampler, str))
    answers = stage.groups_per_step * stage.group_size
    return (
        f"{stage.steps} steps x {stage.groups_per_step} tasks x {stage.group_size} answers = {answers:,} answers a step, "
        f"at most {answers * stage.sampling.max_tokens:,} answer tokens"
    )


def check_answers(recipe: schema.Recipe, *, n: int) -> list[str]:
    """Score gold and corrupted gold answers of every task set with its rewards: a sentence a pair, one an exception."""
    lines, seen = [], set()
    for stage in recipe.stages:
        if not hasattr(stage, "rewards") or (pair := (stage.tasks, repr(stage.rewards))) in seen:
            continue
        seen.add(pair)
        specs = [spec for spec in build_rewards(stage.rewards) if spec.use not in POLICY_REWARDS]
        if not specs:
            continue
        report = check_gold(build_tasks(recipe.tasks[stage.tasks]), specs, n=n)
        pair_name = f"gold of {stage.tasks} with {', '.join(spec.name for spec in specs)}"
        if report.gold_rate is None:
            lines.append(
                f"{pair_name}: NOT CHECKED, none of the answers looked at holds text or a number; is columns.answer right?"
            )
            continue
        rates = f"gold rate {report.gold_rate:.4g}, corrupted rate {report.corrupted_rate:.4g}"
        lines.append(f"{pair_name}: {report.checked} checked, {rates}")
        for e in report.exceptions[:SHOWN_EXCEPTIONS]:
            why = f"{e.verdict.status}: {e.verdict.reason}" if e.verdict.reason else e.verdict.status
            lines.append(f"  {e.kind} answer of {e.id} (gold {e.gold!r}) got {e.verdict.value} ({why}): {e.scored[-60:]!r}")
        if len(report.exceptions) > SHOWN_EXCEPTIONS:
            lines.append(f"  and {len(report.exceptions) - SHOWN_EXCEPTIONS} more")
        if report.exceptions and all(e.verdict.value is None for e in report.exceptions) and report.gold_rate == 0:
            raise RewardError(f"no gold answer of {stage.tasks} could be scored: {report.exceptions[0].verdict.reason}")
    return lines


def _check_data(recipe: schema.Recipe, i: int, stage: schema.OfflineStage | schema.PreferStage) -> None:
    before = [other.name or other.kind for other in recipe.stages[:i] if isinstance(other, schema.SampleStage)]
    if stage.data not in before and not Path(stage.data).exists():
        known = ", ".join(before) or "(none)"
        raise RecipeError(
            f"stages.{i}.data is {stage.data!r}: neither a file or folder here nor a sample stage before this one ({known})"
        )
    if isinstance(stage, schema.OfflineStage):
        build_objective(stage.objective, max_tokens=recipe.sampler.max_length)
        build_credit(stage.credit, values=(lambda groups, answers: {}) if stage.credit.steps else None)
    elif importlib.util.find_spec("trl") is None:
        label = stage.name or stage.kind
        raise RecipeError(f"stage {label} needs the package trl, which is not installed: pip install 'rlcore[prefer]'")


def _no_sampler(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
    raise NotImplementedError("a recipe that is only checked continues nothing")


def _check_streams(stage: schema.RlStage, aim: Objective) -> None:
    kind, name = stage.credit.demonstrations, stage.name or stage.kind
    if kind != "none" and STREAM not in aim.streams:
        raise RecipeError(f"stage {name}: credit.demonstrations is {kind!r}, but its objective does not learn from them: use hpt")
    if kind == "none" and STREAM in aim.streams:
        raise RecipeError(f"stage {name}: its objective learns from demonstrations: set credit.demonstrations to gated or mixed")
