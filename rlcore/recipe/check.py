"""What can be found out about a recipe without a model: does all of it exist, and does its data agree with its rewards."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rlcore.credit.demonstrations import STREAM
from rlcore.errors import RecipeError, RewardError, RlcoreError
from rlcore.objective.term import Objective
from rlcore.plugin import find
from rlcore.recipe import schema
from rlcore.recipe.build import (
    build_budget,
    build_curriculum,
    build_filter,
    build_policy_reward,
    build_prefilter,
    build_rule,
    build_scorer,
    build_second_round,
    build_tasks,
    policy_rewards,
    worker_rewards,
)
from rlcore.recipe.build_credit import build_credit, build_step_values, credit_weights
from rlcore.recipe.build_learner import ENGINES, build_objective
from rlcore.scoring.aggregate import weighted_sum
from rlcore.scoring.goldcheck import check_reference_answers
from rlcore.types import Group, Prefix, Task

SHOWN_EXCEPTIONS = 10
"""Exceptions that `check_answers` prints of one task set."""


def check(recipe: schema.Recipe, tasks: dict[str, Sequence[Task]] | None = None) -> list[str]:
    """Build what can be built without a model; return the numbers that follow from the recipe, one sentence each.

    tasks: filled with the task sets by name, which may take long to make.
    Raises the wing's own error for a preset, parameter, reward, column or data set that does not exist, with the place in the
    recipe before it: `stages.rl.filter: ...`.
    """
    if recipe.engine.kind not in ENGINES:  # of those built in the packages may be absent here
        with _at("engine.kind"):
            find(recipe.engine.kind, ENGINES, what="engine")
    facts, loaded, tasks = [], [], {} if tasks is None else tasks
    for name, section in recipe.tasks.items():
        with _at(f"tasks.{name}"):
            tasks[name] = build_tasks(section)
        facts.append(
            f"tasks {name}: {len(tasks[name]):,} ({section.kind}), first: {str(tasks[name][0].prompt)[:60]!r}"
        )
    labels = [stage.label for stage in recipe.stages]
    for i, (stage, label) in enumerate(zip(recipe.stages, labels, strict=True)):
        place = f"stages.{label if labels.count(label) == 1 else i}"
        if isinstance(stage, schema.OfflineStage | schema.PreferStage):
            _check_data(recipe, i, stage, place)
        if isinstance(stage, schema.RlStage | schema.EvalStage | schema.SampleStage):
            _check_rewards(stage, place, loaded)
        if isinstance(stage, schema.SftStage | schema.OfflineStage | schema.PreferStage):
            what = {"sft": "demonstrations", "offline": "stored answers", "prefer": "pairs"}[
                stage.kind
            ]
            facts.append(
                f"{label}: {stage.steps} steps x {stage.batch_size} {what} = {stage.steps * stage.batch_size:,}"
            )
        if isinstance(stage, schema.RlStage):
            _check_rl(stage, tasks[stage.tasks], place)
            facts.append(f"{label}: {_size(stage)}")
    return facts


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Errors of a part begin with its place in the recipe."""
    try:
        yield
    except RlcoreError as error:
        raise type(error)(f"{place}: {error}") from error


def _check_rewards(
    stage: schema.RlStage | schema.EvalStage | schema.SampleStage,
    place: str,
    loaded: list[list[schema.RewardSection]],
) -> None:
    """`loaded`: rewards that a worker was made of already, a second each where they import much; grows."""
    with _at(f"{place}.rewards"):
        if stage.rewards not in loaded:
            build_scorer(stage.model_copy(update={"reward_workers": 1}), weighted_sum).close()
            loaded.append(stage.rewards)
        for spec in policy_rewards(stage.rewards):
            build_policy_reward(spec, None)
    with _at(f"{place}.aggregate"):
        build_rule(stage)
    if isinstance(stage, schema.SampleStage):
        with _at(f"{place}.steps"):
            build_step_values(stage, _no_engine, str)


def _check_rl(stage: schema.RlStage, tasks: Sequence[Task], place: str) -> None:
    with _at(f"{place}.curriculum"):
        curriculum = build_curriculum(stage.curriculum, tasks, seed=0)
    with _at(f"{place}.prefilter"):
        build_prefilter(stage, curriculum, tasks, seed=0)
    with _at(f"{place}.filter"):
        build_filter(stage)
    with _at(f"{place}.budget"):
        build_budget(stage)
    with _at(f"{place}.second_round"):
        build_second_round(stage.second_round)
    with _at(f"{place}.objective"):
        aim = build_objective(stage.objective, max_tokens=stage.sampling.max_tokens)
    with _at(f"{place}.credit.steps"):
        values = build_step_values(stage, _no_engine, str)
    with _at(f"{place}.credit"):
        build_credit(stage.credit, weights=credit_weights(stage), values=values)
    with _at(f"{place}.credit.demonstrations"):
        _check_streams(stage.credit.demonstrations, aim)


def _size(stage: schema.RlStage) -> str:
    """How large its steps are, in words."""
    answers = stage.groups_per_step * stage.group_size
    return (
        f"{stage.steps} steps x {stage.groups_per_step} tasks x {stage.group_size} answers = {answers:,} answers a step, "
        f"at most {answers * stage.sampling.max_tokens:,} answer tokens"
        + (
            f", and up to {stage.resample.rounds} times as many with the filter"
            if stage.filter
            else ""
        )
    )


def check_answers(
    recipe: schema.Recipe, tasks: Mapping[str, Sequence[Task]], *, n: int
) -> list[str]:
    """Score reference answers and corrupted ones of every task set with its rewards: a sentence a pair, one an exception.

    tasks: those that `check` made.
    """
    lines, seen = [], set()
    for stage in recipe.stages:
        if not hasattr(stage, "rewards") or (pair := (stage.tasks, repr(stage.rewards))) in seen:
            continue
        seen.add(pair)
        specs = worker_rewards(stage.rewards)
        if not specs:
            continue
        report = check_reference_answers(tasks[stage.tasks], specs, n=n)
        pair_name = (
            f"reference answers of {stage.tasks} with {', '.join(spec.name for spec in specs)}"
        )
        if report.reference_rate is None:
            lines.append(
                f"{pair_name}: NOT CHECKED, none of the answers looked at holds text or a number; is columns.answer right?"
            )
            continue
        rates = f"reference rate {report.reference_rate:.4g}, corrupted rate {report.corrupted_rate:.4g}"
        lines.append(f"{pair_name}: {report.checked} checked, {rates}")
        for count, what in (
            (report.without_answer, "tasks left out: their answer is neither text nor a number"),
            (report.wrong_demonstrations, "demonstrations that do not end in the reference answer"),
        ):
            if count:
                lines.append(f"  {count} {what}")
        for e in report.exceptions[:SHOWN_EXCEPTIONS]:
            why = (
                f"{e.verdict.status}: {e.verdict.reason}" if e.verdict.reason else e.verdict.status
            )
            lines.append(
                f"  {e.kind} answer of {e.id} (reference {e.answer!r}) got {e.verdict.value} ({why}): {e.scored[-60:]!r}"
            )
        if len(report.exceptions) > SHOWN_EXCEPTIONS:
            lines.append(f"  and {len(report.exceptions) - SHOWN_EXCEPTIONS} more")
        if (
            report.exceptions
            and all(e.verdict.value is None for e in report.exceptions)
            and report.reference_rate == 0
        ):
            raise RewardError(
                f"no reference answer of {stage.tasks} could be scored: {report.exceptions[0].verdict.reason}"
            )
    return lines


def _check_data(
    recipe: schema.Recipe, i: int, stage: schema.OfflineStage | schema.PreferStage, place: str
) -> None:
    before = [other.label for other in recipe.stages[:i] if isinstance(other, schema.SampleStage)]
    if stage.data not in before and not Path(stage.data).exists():
        known = ", ".join(before) or "(none)"
        raise RecipeError(
            f"{place}.data is {stage.data!r}: neither a file or folder here nor a sample stage before this one ({known})"
        )
    if isinstance(stage, schema.OfflineStage):
        with _at(f"{place}.objective"):
            build_objective(stage.objective, max_tokens=recipe.engine.max_length)
        with _at(f"{place}.credit"):
            build_credit(
                stage.credit, values=(lambda groups, answers: {}) if stage.credit.steps else None
            )
    elif importlib.util.find_spec("trl") is None:
        raise RecipeError(
            f"{place} needs the package trl, which is not installed: pip install 'rlcore[prefer]'"
        )


def _no_engine(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
    raise NotImplementedError("a recipe that is only checked continues nothing")


def _check_streams(demonstrations: str, aim: Objective) -> None:
    if demonstrations != "none" and STREAM not in aim.streams:
        raise RecipeError(
            f"it is {demonstrations!r}, but the stage's objective does not learn from them: use hpt"
        )
    if demonstrations == "none" and STREAM in aim.streams:
        raise RecipeError(
            "the stage's objective learns from demonstrations: set credit.demonstrations to gated or mixed"
        )
