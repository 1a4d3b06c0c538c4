"""Stage `rl`: the arrow, one turn a step.

    task -> curriculum -> rollout -> reward -> credit -> pack -> objective -> step -> sync

Every rank runs this loop on its own share of the tasks and keeps its groups whole; ranks meet in the learner's all-reduces
and in the few small values gathered here. A filter may stand between reward and credit: what it rejects is replaced by other
tasks, is seen by the curriculum, and is not learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rlcore.recipe.build import (
    build_budget,
    build_curriculum,
    build_filter,
    build_prefilter,
    build_sampling,
    build_scorer,
    build_second_round,
)
from rlcore.recipe.build_credit import build_credit, credit_weights
from rlcore.recipe.build_learner import build_objective
from rlcore.recipe.schema import RlStage
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
from rlcore.run.session import Run
from rlcore.run.step_values import step_metrics, step_rows, step_values
from rlcore.run.stopwatch import Stopwatch
from rlcore.stages.sft import demonstrate


def run_rl(run: Run, stage: RlStage) -> None:
    tasks, seed = run.tasks(stage.tasks), derive(run.recipe.seed, "rl", run.cursor.stage)
    curriculum = build_prefilter(
        stage, build_curriculum(stage.curriculum, tasks, seed=seed), tasks, seed=seed
    )
    objective = build_objective(stage.objective, max_tokens=stage.sampling.max_tokens)
    learner = run.learner(stage, objective, temperature=stage.sampling.temperature)
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
            report = learner.step([sample for group in samples for sample in group] + texts)
            watch.lap("learn")

            if learner.version != behaviour:
                run.publish(learner.version, collector.generator)
            watch.lap("sync")

            metrics = rollout_metrics(facts) | learner_metrics(report) | curriculum_metrics
            metrics |= {"policy_version": behaviour, "staleness/mean": 0}
            metrics |= watch.times(reward=batch.collected.reward_s)
            if steps:
                costs = run.gather([steps.cost])
                metrics |= step_metrics(costs, written=metrics["tokens/completion"])
            limit.add(metrics)
            run.end_step(learner, curriculum, metrics, source)
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
