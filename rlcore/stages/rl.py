"""Stage `rl`: the loop of reinforcement learning, one rollout batch a step.

    task -> curriculum -> rollout -> reward -> credit -> batch -> updates -> publish

Every rank runs this loop on its own share of the tasks and keeps its groups whole; ranks meet in the learner's all-reduces
and in the few small values gathered here. A filter may stand between reward and credit: groups that it rejects are replaced
by other tasks; the curriculum sees them, the learner does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt, model_validator

from rlcore.credit.demonstrations import check_streams
from rlcore.credit.solutions import Solutions
from rlcore.objective.correction import require_correction
from rlcore.objective.method_keys import in_place_of, with_method
from rlcore.recipe.build import (
    build_budget,
    build_curriculum,
    build_environments,
    build_filter,
    build_follow_up,
    build_prefilter,
    build_scorer,
)
from rlcore.recipe.build_credit import build_credit, build_step_values, credit_weights
from rlcore.recipe.build_learner import (
    build_objective,
    require_policys_tokens,
    require_starting_point,
)
from rlcore.recipe.credit_sections import CreditSection, baseline_conflicts
from rlcore.recipe.critic_section import CriticSection, critic_conflicts
from rlcore.recipe.env_section import conflicts
from rlcore.recipe.filter_sections import GroupKeys
from rlcore.recipe.optim_sections import OptimSection, UpdateKeys
from rlcore.recipe.shared_sections import BUDGET_TEXT, BudgetText
from rlcore.run.allocator import give_back_freed_memory
from rlcore.run.metrics import learner_metrics
from rlcore.run.next_token import next_token_groups
from rlcore.run.own_metrics import build_metrics
from rlcore.run.plots import draw_categories
from rlcore.run.replay import KeyedGroup
from rlcore.run.rollout_batch import RolloutBatch
from rlcore.run.seeds import derive
from rlcore.run.step_records import (
    add_token_values,
    batch_metrics,
    speed_metrics,
    write_rollouts,
)
from rlcore.run.stopwatch import Stopwatch
from rlcore.run.teachers import build_teachers
from rlcore.run.token_limit import TokenLimit
from rlcore.stages.base import GeneratingStage, Stage, TrainingKeys
from rlcore.stages.replay_keys import ReplayKeys
from rlcore.stages.rl_batches import batch_source, task_sampler
from rlcore.stages.sft import demonstrate, encoder_with_tools
from rlcore.stages.teacher_keys import TeacherKeys

if TYPE_CHECKING:
    from rlcore.credit.group import Credit
    from rlcore.learner.update import Learner
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.run.critic import StageCritic
    from rlcore.run.session import Run
    from rlcore.types import StepReport


class RlStage(TeacherKeys, ReplayKeys, GroupKeys, UpdateKeys, TrainingKeys, GeneratingStage):
    headline = ("reward/mean", "completions/length/mean", "reward/frac_zero_std")

    steps: PositiveInt = Field(
        description="rollout batches to train on (verl's training steps; TRL's max_steps counts updates)"
    )
    method: str = Field(
        "grpo",
        description="a publication (GRPO, Dr. GRPO, DAPO, ...): its loss, baseline, equal-reward rule and filter; keys that you "
        "write win; docs/methods.md lists them",
    )
    stop_after_tokens: PositiveInt | None = Field(
        None,
        description="end after the step that brings the tokens written in this stage, continuations too, to this number",
    )
    groups_per_step: PositiveInt = Field(
        32, description="tasks in a step, over all processes (verl: train_batch_size)"
    )
    aggregate: str | dict[str, Any] = Field(
        "sum",
        description="how rewards become one value: a name, or {use: name, parameter: value}",
    )
    curriculum: str | dict[str, Any] = Field(
        "uniform",
        description="which tasks next: a name, or {use: name, parameter: value}; docs/curricula.md",
    )
    budget: PositiveInt | str | dict[str, Any] | None = Field(
        None,
        description="tokens that the prompt states and the reward `length` asks for, by step; nothing is cut there. A number, or "
        "{use: exponential, start: 256, factor: 0.7, every: 150}",
    )
    budget_text: BudgetText = Field(
        BUDGET_TEXT,
        description="how the prompt states {budget}; put after it, or around {prompt}",
    )
    follow_up: str | dict[str, Any] | None = Field(
        None,
        description="further tasks made of a step's completions, generated and trained in the same step: guess_masks, or {use: name, ...}",
    )
    credit: CreditSection = Field(default_factory=CreditSection)
    critic: CriticSection | None = Field(
        None, description="a value model, for credit.baseline: critic; docs/critic.md"
    )
    objective: str | dict[str, Any] = Field(
        "grpo",
        description="a preset's name, or {use: name, parameter: value}; docs/objectives.md",
    )
    optim: OptimSection = Field(default_factory=OptimSection)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_what_the_method_sets(cls, value: Any) -> Any:
        return with_method(value) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _budget_text_has_an_effect(self) -> RlStage:
        if self.budget is None and self.budget_text != BUDGET_TEXT:
            raise ValueError("budget_text has no effect without a budget")
        return self

    @property
    def imitates(self) -> bool:
        return self.credit.demonstrations not in ("none", "solved")

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        yield from baseline_conflicts(self.credit, self.group_size)
        if self.sampling.temperature == 0:
            yield (
                "sampling.temperature is 0: greedy completions of a task are all the same, "
                "so RL learns nothing"
            )
        if recipe.engine.differences:
            yield (
                "engine.differences writes completions with a mixture of models, and an rl stage learns from its own policy's: "
                "use eval and sample stages, and learn from the samples with sft or offline"
            )
        yield from conflicts(self.env, self.credit)
        yield from critic_conflicts(self)
        if self.env is not None and self.follow_up is not None:
            yield "follow_up makes tasks of single completions: leave it out, or leave out env"
        truncated = self.sampling.top_p < 1 or self.sampling.min_p > 0
        if truncated and self.sampling.top_k == 0 and recipe.engine.use.startswith("vllm_"):
            yield (
                "sampling has top_p or min_p without top_k: vLLM reports which tokens were kept only if "
                "top_k bounds their number; set top_k too, leave them out, or use engine.use=hf"
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
        with context.at("metrics"):
            build_metrics(self.metrics)
        with context.at("budget"):
            build_budget(self)
        with context.at("follow_up"):
            build_follow_up(self.follow_up)
        with context.at("objective"):
            objective = build_objective(self.objective, max_tokens=self.sampling.max_tokens)
        if self.credit.steps:
            with context.at("credit.steps"):
                build_step_values(self.credit.steps, self, context.no_engine, str)
        if self.critic is not None and self.critic.path is not None:
            with context.at("critic.path"):
                require_starting_point(self.critic.path)
                require_policys_tokens(context.recipe.model, self.critic.path)
        with context.at("credit"):
            build_credit(self.credit, weights=credit_weights(self), critic=context.no_critic)
        with context.at("credit.demonstrations"):
            check_streams(self.credit.demonstrations, objective.streams)
        with context.at("max_staleness"):
            require_correction(
                objective,
                old_logprobs=self.old_logprobs_source(context.recipe),
                max_staleness=self.max_staleness,
            )
        other = in_place_of(self.model_dump())
        if other:
            facts.append(f"{self.label}: method {self.method}, with {', '.join(other)}")
        return [*facts, f"{self.label}: {self.size_in_words()}"]

    def size_in_words(self) -> str:
        """How large the steps are."""
        completions = self.groups_per_step * self.group_size
        turns = self.env.max_turns if self.env is not None else 1
        tokens = completions * turns * self.sampling.max_tokens
        what = "completions" if self.env is None else f"rollouts of at most {turns} turns"
        words = (
            f"{self.steps} steps x {self.groups_per_step} tasks x {self.group_size} {what} = "
            f"{completions:,} {what.split()[0]} a step, at most {tokens:,} completion tokens"
        )
        if self.filter:
            words += (
                f", and up to {self.resample.max_gen_batches} times as many with the filter"
            )
        return words

    def run(self, run: Run) -> None:
        run_rl(run, self)
        if run.accelerator.is_main_process:
            draw_categories(run.folder.path, run.folder.picture)


def run_rl(run: Run, stage: RlStage) -> None:
    from rlcore.learner.token_record import TokenRecord
    from rlcore.run.throughput import throughput

    seed = derive(run.recipe.seed, "rl", run.cursor.stage)
    curriculum = task_sampler(run, stage, seed=seed)
    objective = build_objective(stage.objective, max_tokens=stage.sampling.max_tokens)
    critic = stage_critic(run, stage, seed=seed)
    learner = run.learner(stage, objective)
    learner.record = TokenRecord() if run.recipe.run.token_values else None
    solutions = stage_solutions(run, stage, learner)
    limit = TokenLimit(run, stage.stop_after_tokens)
    own_metrics = build_metrics(stage.metrics)

    with (
        build_scorer(stage) as scorer,
        build_environments(stage.env) as pool,
        build_teachers(run, stage) as teachers,
        run.tracker.stage(stage, done=run.cursor.stage_step),
    ):
        batches = batch_source(run, stage, curriculum, learner, scorer, pool, seed=seed)
        run.resume_stage(learner, curriculum, batches)
        credit = solutions or stage_credit(run, stage, critic)
        speed = throughput(run.policy, run.accelerator, peak_tflops=run.recipe.run.peak_tflops)
        run.publish(learner.version, batches.generator)
        while stage.goes_on(run) and not limit.reached:
            watch = Stopwatch()
            batch = batches.generate_and_score(run.cursor.stage_step, version=learner.version)
            give_back_freed_memory()  # of generation
            run.sleep_engine(batches.generator)
            watch.lap("rollout")

            samples = teachers.score(batch.groups, credit(batch.groups))
            write_rollouts(run, batch, samples)
            metrics = batch_metrics(run, batch, own_metrics, version=learner.version)
            metrics |= teachers.metrics() | batches.update_curriculum(batch, samples)
            watch.lap("credit")

            with batches.generating_meanwhile():
                keyed = batches.replay.join(run.cursor.stage_step, batch.keyed(samples))
                report = update_policy(run, stage, learner, batch, keyed, seed=seed)
                metrics |= learner_metrics(report) | batches.replay.metrics()
                add_token_values(run, batch, samples, learner)
                metrics |= critic.learn(batch) if critic else {}
                watch.lap("learn")
            # what is still under way, where weights are not loaded in flight
            watch.lap("rollout")

            if report.updates:  # otherwise no sample had a gradient, and the engine serves these weights already
                learner.version += 1  # counts publishes, not optimiser updates
                sync = run.publish(learner.version, batches.generator, batch.rollouts)
                metrics |= sync.metrics()
            watch.lap("publish")
            times = watch.times(reward=batch.collected.reward_s, engine_idle=batches.idle_s)
            metrics |= times
            metrics |= speed_metrics(run, speed, samples, times, metrics, stage.update_epochs)
            limit.add(metrics)
            run.end_step(metrics, learner, curriculum, batches)
        batches.abandon()
    run.end_stage(learner, curriculum)


def update_policy(
    run: Run,
    stage: RlStage,
    learner: Learner,
    batch: RolloutBatch,
    groups: Sequence[KeyedGroup],
    *,
    seed: int,
) -> StepReport:
    """The updates of one step, from (sort key, samples) of its groups; none while a critic is
    pretrained. Collective.
    """
    from rlcore.learner.updates import run_updates

    if stage.critic and stage.critic.pretrains(run.cursor.stage_step):
        return learner.update([])
    return run_updates(
        learner,
        [*groups, *next_token_groups(run, batch, learner.objective)],
        minibatches=stage.minibatches,
        update_epochs=stage.update_epochs,
        by=stage.minibatch_by,
        old_logprobs=stage.old_logprobs_source(run.recipe),
        seed=derive(seed, "minibatches", run.cursor.stage_step),
        gather=run.gather,
    )


def stage_credit(run: Run, stage: RlStage, critic: StageCritic | None) -> Credit:
    """The stage's credit over the groups of all processes."""
    encoder = encoder_with_tools(run, stage.env if stage.imitates else None)
    return build_credit(
        stage.credit,
        weights=credit_weights(stage),
        gather=run.gather,
        demonstrate=partial(demonstrate, encoder),
        critic=critic and critic.credit,
    )


def stage_solutions(run: Run, stage: RlStage, learner: Learner) -> Solutions | None:
    """Credit for the tasks' own solutions, which checkpoints hold from now on; None without it."""
    section = stage.credit.solutions
    if section is None:
        return None
    solutions = Solutions(
        section,
        logprobs=learner.sequence_logprobs,
        demonstrate=partial(demonstrate, run.encoder),
        gather=run.gather,
    )
    run.parts["solutions"] = solutions
    return solutions


def stage_critic(run: Run, stage: RlStage, *, seed: int) -> StageCritic | None:
    """The stage's critic, which checkpoints hold from now on; None without one. Collective."""
    if stage.critic is None:
        return None
    from rlcore.run.critic import StageCritic

    critic = StageCritic(run, stage, seed=seed)
    run.parts["critic"] = critic
    return critic
