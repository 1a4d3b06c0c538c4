"""Stage `rl`: the arrow, one turn a step.

    task -> curriculum -> rollout -> reward -> credit -> pack -> objective -> step -> sync

Every rank runs this loop on its own share of the tasks and keeps its groups whole; ranks meet in the learner's all-reduces
and in the few small values gathered here. A filter may stand between reward and credit: what it rejects is replaced by other
tasks, is seen by the curriculum, and is not learned from.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rlcore.credit.estimator import Cost
from rlcore.recipe.build import build_curriculum, build_prefilter, build_scorer
from rlcore.recipe.build_credit import build_credit, credit_weights
from rlcore.recipe.build_learner import build_objective
from rlcore.recipe.schema import RlStage
from rlcore.run.batches import Intake
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
    intake = Intake(run, stage, tasks, curriculum, seed=seed)
    objective = build_objective(stage.objective, max_tokens=stage.sampling.max_tokens)
    learner = run.learner(stage, objective, temperature=stage.sampling.temperature)
    run.resume_stage(learner, curriculum)
    score = policy_scorer(run, stage, learner.average)

    with build_scorer(stage) as scorer, run.tracker.stage(stage, done=run.cursor.stage_step):
        estimator = step_values(run, stage, scorer, seed=seed)
        credit = build_credit(
            stage.credit,
            weights=credit_weights(stage),
            gather=run.gather,
            demonstrate=partial(demonstrate, run),
        )
        run.publish(learner.version)
        while run.cursor.stage_step < stage.steps and not intake.exhausted:
            watch = Stopwatch()
            collected = intake.collect(scorer, score, version=learner.version)
            facts = run.gather(
                group_facts(group) for group in collected.groups + collected.rejected
            )
            refuse_unscored(facts)
            watch.lap("rollout")

            cost = Cost()
            if estimator:
                groups, cost = estimator(collected.groups)
                collected = replace(collected, groups=groups)
            samples = credit(collected.groups)
            rows = rollout_rows(intake.everything(collected), step_rows(collected.groups, samples))
            run.folder.write_rollouts(run.cursor.step + 1, run.accelerator.process_index, rows)
            seen = intake.report(collected, samples, continued=cost.tokens)
            watch.lap("credit")

            behaviour = learner.version
            texts = (
                text_samples(run, (group.task for group in collected.groups))
                if STREAM in objective.streams
                else []
            )
            report = learner.step([sample for group in samples for sample in group] + texts)
            watch.lap("learn")

            if learner.version != behaviour:
                run.publish(learner.version)
            watch.lap("sync")

            metrics = rollout_metrics(facts) | learner_metrics(report) | seen
            metrics |= {
                "policy_version": behaviour,
                "staleness": 0,
                **watch.times(reward=collected.reward_s),
            }
            if estimator:
                metrics |= step_metrics(run.gather([cost]), written=metrics["tokens/completion"])
            run.end_step(learner, curriculum, metrics)
    if run.accelerator.is_main_process:
        draw_categories(run.folder.path, run.folder.picture)
    run.end_stage(learner, curriculum)
