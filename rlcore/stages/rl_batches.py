"""From the sections of an rl stage to where its rollout batches come from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rlcore.recipe.build import (
    build_budget,
    build_curriculum,
    build_filter,
    build_follow_up,
    build_prefilter,
    build_sampling,
)
from rlcore.run.batches import BatchPlan, BatchSource
from rlcore.run.environment import build_episodes
from rlcore.run.policy_rewards import policy_scorer
from rlcore.run.replay import build_replay
from rlcore.run.seeds import derive
from rlcore.run.step_values import step_values

if TYPE_CHECKING:
    from rlcore.curriculum.task_sampler import TaskSampler
    from rlcore.env.pool import EnvironmentPool
    from rlcore.learner.update import Learner
    from rlcore.run.session import Run
    from rlcore.stages.rl import RlStage


def task_sampler(run: Run, stage: RlStage, *, seed: int) -> TaskSampler:
    """The stage's curriculum, behind its prefilter if it has one."""
    tasks = run.tasks(stage.tasks)
    sampler = build_curriculum(stage.curriculum, tasks, seed=seed)
    return build_prefilter(stage, sampler, tasks, seed=seed)


def batch_source(
    run: Run,
    stage: RlStage,
    curriculum: TaskSampler,
    learner: Learner,
    scorer: Any,
    pool: EnvironmentPool | None,
    *,
    seed: int,
) -> BatchSource:
    """This rank's rollout batches: drawn by the curriculum, sampled by the run's engine, scored."""
    collector = run.collector(
        scorer,
        # keeps what top-k, top-p and min-p left: the learner renormalises over the same tokens
        build_sampling(stage.sampling, keep_support=True),
        group_size=stage.group_size,
        seed_of_batch=partial(derive, seed),
        probe=stage.resample.probe,
        episodes=build_episodes(run, stage, pool),
    )
    return BatchSource(
        batch_plan(stage),
        run.tasks(stage.tasks),
        curriculum,
        collector,
        rank=run.accelerator.process_index,
        ranks=run.accelerator.num_processes,
        gather=run.gather,
        add_policy_rewards=policy_scorer(run, stage, learner.average),
        estimate_step_values=step_values(run, stage.credit.steps, stage, collector, seed=seed),
        overlap=run.engine().shared,
        in_flight=getattr(run.engine(), "in_flight", True),
        replay=build_replay(run, stage, seed=seed),
    )


def batch_plan(stage: RlStage) -> BatchPlan:
    """How the stage's batches are made."""
    return BatchPlan(
        groups_per_step=stage.groups_per_step,
        steps=stage.steps,
        max_staleness=stage.max_staleness,
        filter=build_filter(stage),
        max_gen_batches=stage.resample.max_gen_batches,
        oversubmit=stage.resample.oversubmit,
        budget=build_budget(stage),
        budget_text=stage.budget_text,
        follow_up=build_follow_up(stage.follow_up),
    )
