"""Stage `rl`: the arrow, one turn a step.

    task -> curriculum -> rollout -> reward -> credit -> pack -> objective -> step -> sync

Every rank runs this loop on its own share of the tasks and keeps its groups whole; ranks meet in the learner's all-reduces
and in the few small values gathered here. A filter may stand between reward and credit: what it rejects is replaced by other
tasks, is seen by the curriculum, and is not learned from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveInt, model_validator

from rlcore.credit.demonstrations import STREAM as DEMONSTRATIONS
from rlcore.errors import RecipeError
from rlcore.recipe.build import (
    build_budget,
    build_curriculum,
    build_filter,
    build_prefilter,
    build_sampling,
    build_scorer,
    build_second_round,
)
from rlcore.recipe.build_credit import build_credit, build_step_values, credit_weights
from rlcore.recipe.build_learner import build_objective
from rlcore.recipe.credit_sections import CreditSection
from rlcore.recipe.optim_sections import OptimSection
from rlcore.recipe.section import Section
from rlcore.recipe.shared_sections import BUDGET_TEXT, BudgetText
from rlcore.run.batches import BatchPlan, BatchSource
from rlcore.run.folder import read_rows
from rlcore.run.metrics import (
    group_facts,
    learner_metrics,
    refuse_unscored,
    rollout_metrics,
    rollout_rows,
)
from rlcore.run.next_token import STREAM, text_samples
from rlcore.run.plots import draw_categories
from rlcore.run.policy_rewards import policy_scorer
from rlcore.run.seeds import derive
from rlcore.run.step_values import step_metrics, step_rows, step_values
from rlcore.run.stopwatch import Stopwatch
from rlcore.stages.base import GeneratingStage, Stage
from rlcore.stages.sft import demonstrate

if TYPE_CHECKING:
    from rlcore.objective.term import Objective
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.run.session import Run


class ResampleSection(Section):
    rounds: PositiveInt = Field(
        10, description="at most so many times the batch is tried; then it stays smaller"
    )
    oversubmit: Annotated[float, Field(ge=1)] = Field(
        1.0,
        description="groups under way for each one missing; above 1 faster, but what is under way at the end is wasted",
    )
    probe: Annotated[int, Field(ge=2)] | None = Field(
        None,
        description="answers to a task that are written first; the others only if the filter accepts these",
    )


class PrefilterSection(Section):
    """`prefilter: category` is short for `prefilter: {by: category}`."""

    by: str | list[str] = Field(
        "task",
        description="what is remembered together: task, category, a column, or several columns",
    )
    rate: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="how fast a kind's chance follows what the filter accepts"
    )
    least: Annotated[float, Field(gt=0, le=1)] = Field(
        0.02, description="smallest chance of a task to be tried"
    )

    @model_validator(mode="before")
    @classmethod
    def _by(cls, given: Any) -> Any:
        return {"by": given} if isinstance(given, str | list) else given


class RlStage(GeneratingStage):
    headline = ("reward/mean", "completions/length/mean", "reward/frac_zero_std")

    steps: PositiveInt = Field(description="optimiser steps")
    stop_after_tokens: PositiveInt | None = Field(
        None,
        description="end after the step that brings the tokens written in this stage, continuations too, to this number",
    )
    groups_per_step: PositiveInt = Field(32, description="tasks in a step, over all processes")
    group_size: PositiveInt = Field(8, description="answers to a task")
    mix: str | dict[str, Any] = Field(
        "sum", description="how rewards become one value: a name, or {use: name, parameter: value}"
    )
    curriculum: str | dict[str, Any] = Field(
        "uniform",
        description="which tasks next: a name, or {use: name, parameter: value}; docs/curricula.md",
    )
    filter: str | dict[str, Any] | list[str | dict[str, Any]] | None = Field(
        None,
        description="which groups enter the batch, the others are replaced: zero_variance, pass_rate, staleness, unscorable",
    )
    resample: ResampleSection = Field(default_factory=ResampleSection)
    prefilter: PrefilterSection | None = Field(
        None,
        description="pass over tasks like those the filter rejected, before anything is written for them",
    )
    budget: PositiveInt | str | dict[str, Any] | None = Field(
        None,
        description="tokens that the prompt states and the reward `length` asks for, by step; nothing is cut there. A number, or "
        "{use: exponential, start: 256, factor: 0.7, every: 150}",
    )
    budget_text: BudgetText = Field(
        BUDGET_TEXT, description="how the prompt states {budget}; put after it, or around {prompt}"
    )
    second_round: str | dict[str, Any] | None = Field(
        None,
        description="tasks made of a step's answers, answered in the same step: guess_masks, or {use: name, ...}",
    )
    credit: CreditSection = Field(default_factory=CreditSection)
    objective: str | dict[str, Any] = Field(
        "grpo",
        description="a preset's name, or {preset: name, parameter: value}; docs/objectives.md",
    )
    optim: OptimSection = Field(default_factory=OptimSection)

    @model_validator(mode="after")
    def _parts_of_a_filter(self) -> RlStage:
        if self.prefilter is not None and self.filter is None:
            raise ValueError("prefilter remembers what a filter rejected: set filter too")
        if self.resample.probe is not None and (
            self.filter is None or self.resample.probe >= self.group_size
        ):
            raise ValueError(
                f"resample.probe is {self.resample.probe}, which needs a filter and a group_size above it (it is {self.group_size})"
            )
        return self

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        alone = self.group_size == 1 and self.credit.demonstrations != "mixed"
        if alone and self.credit.baseline in ("mean", "mean_std", "leave_one_out"):
            yield (
                "group_size is 1, so a completion is compared with nothing: "
                "raise it, or set credit.baseline"
            )
        if self.sampling.temperature == 0:
            yield (
                "sampling.temperature is 0: greedy completions of a task are all the same, "
                "so RL learns nothing"
            )

    def check(self, context: Checking) -> list[str]:
        facts = super().check(context)
        tasks = context.tasks[self.tasks]
        with context.at("curriculum"):
            curriculum = build_curriculum(self.curriculum, tasks, seed=0)
        with context.at("prefilter"):
            build_prefilter(self, curriculum, tasks, seed=0)
        with context.at("filter"):
            build_filter(self)
        with context.at("budget"):
            build_budget(self)
        with context.at("second_round"):
            build_second_round(self.second_round)
        with context.at("objective"):
            objective = build_objective(self.objective, max_tokens=self.sampling.max_tokens)
        with context.at("credit.steps"):
            values = build_step_values(self, context.no_engine, str)
        with context.at("credit"):
            build_credit(self.credit, weights=credit_weights(self), values=values)
        with context.at("credit.demonstrations"):
            check_streams(self.credit.demonstrations, objective)
        return [*facts, f"{self.label}: {self.size_in_words()}"]

    def size_in_words(self) -> str:
        """How large the steps are."""
        completions = self.groups_per_step * self.group_size
        tokens = completions * self.sampling.max_tokens
        words = (
            f"{self.steps} steps x {self.groups_per_step} tasks x {self.group_size} completions = "
            f"{completions:,} completions a step, at most {tokens:,} completion tokens"
        )
        if self.filter:
            words += f", and up to {self.resample.rounds} times as many with the filter"
        return words

    def run(self, run: Run) -> None:
        run_rl(run, self)


def check_streams(demonstrations: str, objective: Objective) -> None:
    """Raise `RecipeError` where only one of credit and objective knows demonstrations."""
    learns = DEMONSTRATIONS in objective.streams
    if demonstrations != "none" and not learns:
        raise RecipeError(
            f"it is {demonstrations!r}, but the stage's objective does not learn from them: use hpt"
        )
    if demonstrations == "none" and learns:
        raise RecipeError(
            "the stage's objective learns from demonstrations: "
            "set credit.demonstrations to gated or mixed"
        )


def run_rl(run: Run, stage: RlStage) -> None:
    tasks, seed = run.tasks(stage.tasks), derive(run.recipe.seed, "rl", run.cursor.stage)
    curriculum = build_prefilter(
        stage, build_curriculum(stage.curriculum, tasks, seed=seed), tasks, seed=seed
    )
    objective = build_objective(stage.objective, max_tokens=stage.sampling.max_tokens)
    learner = run.learner(stage, objective)
    limit = TokenLimit(run, stage.stop_after_tokens)

    with build_scorer(stage) as scorer, run.tracker.stage(stage, done=run.cursor.stage_step):
        collector = run.collector(
            scorer,
            build_sampling(stage.sampling),
            group_size=stage.group_size,
            seed_of_batch=partial(derive, seed),
            probe=stage.resample.probe,
        )
        source = BatchSource(
            batch_plan(stage),
            tasks,
            curriculum,
            collector,
            rank=run.accelerator.process_index,
            ranks=run.accelerator.num_processes,
            gather=run.gather,
            rescore=policy_scorer(run, stage, learner.average),
        )
        run.resume_stage(learner, curriculum, source)
        steps = step_values(run, stage, collector, seed=seed)
        credit = build_credit(
            stage.credit,
            weights=credit_weights(stage),
            gather=run.gather,
            demonstrate=partial(demonstrate, run),
            values=steps,
        )
        run.publish(learner.version, collector.generator)
        while run.cursor.stage_step < stage.steps and not limit.reached:
            watch = Stopwatch()
            batch = source.next(run.cursor.stage_step, version=learner.version)
            facts = run.gather([group_facts(group) for group in batch.all_groups])
            watch.lap("rollout")

            samples = credit(batch.groups)
            rows = rollout_rows(batch.placed(), step_rows(steps, samples) if steps else {})
            run.folder.write_rollouts(run.cursor.step + 1, run.accelerator.process_index, rows)
            refuse_unscored(facts)
            curriculum_metrics = source.observe(batch, samples)
            watch.lap("credit")

            behaviour = learner.version
            texts = []
            if STREAM in objective.streams:
                texts = text_samples(run, [group.task for group in batch.groups])
            report = learner.update([sample for group in samples for sample in group] + texts)
            watch.lap("learn")

            if report.updates:
                learner.version += 1
                run.publish(learner.version, collector.generator)
            watch.lap("sync")

            metrics = rollout_metrics(facts) | learner_metrics(report) | curriculum_metrics
            metrics |= {"policy_version": behaviour, "staleness/mean": 0}
            metrics |= watch.times(reward=batch.collected.reward_s)
            if steps:
                costs = run.gather([steps.cost])
                metrics |= step_metrics(costs, written=metrics["tokens/completion"])
            limit.add(metrics)
            run.end_step(metrics, learner, curriculum, source)
    if run.accelerator.is_main_process:
        draw_categories(run.folder.path, run.folder.picture)
    run.end_stage(learner, curriculum)


def batch_plan(stage: RlStage) -> BatchPlan:
    """How the stage's batches are made."""
    return BatchPlan(
        groups_per_step=stage.groups_per_step,
        steps=stage.steps,
        filter=build_filter(stage),
        rounds=stage.resample.rounds,
        oversubmit=stage.resample.oversubmit,
        budget=build_budget(stage),
        budget_text=stage.budget_text,
        follow_up=build_second_round(stage.second_round),
    )


class TokenLimit:
    """The number of completion tokens after which a stage ends, continuations for step values included."""

    def __init__(self, run: Run, limit: int | None) -> None:
        self._limit, self._tokens = limit, 0
        first = run.cursor.step - run.cursor.stage_step
        rows = read_rows(run.folder.metrics)[first:]  # of this stage, before it was killed
        self._tokens = run.gather([sum(map(self._written, rows))])[0]

    @property
    def reached(self) -> bool:
        return self._limit is not None and self._tokens >= self._limit

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Count a step's tokens."""
        self._tokens += self._written(metrics)

    @staticmethod
    def _written(metrics: Mapping[str, Any]) -> int:
        return metrics["tokens/completion"] + metrics.get("credit/tokens", 0)
