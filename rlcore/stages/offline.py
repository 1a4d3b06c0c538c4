"""Stage `offline`: learn from stored rollouts, with any credit and objective that needs no new completions.

    rejection sampling fine-tuning (RFT)   keep: correct, distinct: 4, objective: sft
    long2short by shortest samples         keep: shortest, objective: sft
    best of n, Sharpening                  keep: best, objective: sft
    advantage-weighted, per completion     credit: {baseline: mean}, objective: {use: awr, beta: 0.5}
    advantage-weighted, per step (Eq. 4)   credit: {baseline: none, steps: {scheme: {use: per_step, mix: 1.0}}},
                                           objective: {use: awr, beta: 0.5}
    GRPO on old completions                credit: {baseline: mean_std}, objective: grpo (needs the rows' logprobs)
    LeTI                                   transform: feedback, objective: sft

Credit sees all completions of a task before `keep` and `distinct` choose among them, so a baseline is that of the whole group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from rlcore.credit.group import scored_rollouts
from rlcore.curriculum.task_sampler import drawn
from rlcore.errors import RecipeError, RunError
from rlcore.objective.term import Objective
from rlcore.recipe.build import build_order
from rlcore.recipe.build_credit import build_credit
from rlcore.recipe.build_learner import build_objective
from rlcore.recipe.credit_sections import CreditSection
from rlcore.recipe.optim_sections import OptimSection
from rlcore.run.metrics import learner_metrics
from rlcore.run.seeds import derive
from rlcore.run.stopwatch import Stopwatch
from rlcore.stages.base import OrderKeys, SkippableStage, Stage, TrainingKeys, unrewarded
from rlcore.stages.transform_keys import TransformKey, check_transforms, transformed
from rlcore.tasks.made import VERDICT, with_verdict
from rlcore.transforms.transform import Transforms
from rlcore.types import Rollout, Sample, Task, Verdict

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.run.session import Run
    from rlcore.run.stored import Stored


class OfflineStage(TransformKey, OrderKeys, TrainingKeys, SkippableStage):
    headline = ("loss", "entropy")

    keep: Literal["all", "correct", "incorrect", "shortest", "best"] = Field(
        "all",
        description="which completions are trained on, after credit has read all of them; shortest: of each task the shortest "
        "correct one; best: of each task that of the highest reward",
    )
    distinct: PositiveInt | None = Field(
        None, description="maximum number of completions per task, each text once"
    )
    steps: PositiveInt = Field(description="steps, each of one update")
    batch_size: PositiveInt = Field(
        128, description="completions in a step, over all processes"
    )
    credit: CreditSection = Field(
        default_factory=lambda: CreditSection(baseline="none", zero_variance="keep"),
        description="of credit.steps only the scheme counts: the values are the stored ones",
    )
    objective: str | dict[str, Any] = Field(
        "sft", description="a preset's name, or {use: name, parameter: value}"
    )
    optim: OptimSection = Field(default_factory=lambda: OptimSection(lr=1e-5))

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        if self.credit.steps and self.credit.steps.keep != "none":
            yield "credit.steps.keep is for rl stages: nothing is continued here"
        if self.credit.steps and self.credit.steps.parameters:
            key = next(iter(self.credit.steps.parameters))
            yield f"credit.steps.{key} has no effect: the step values are the stored ones"
        if self.credit.normalise_parts:
            yield "credit.normalise_parts is for rl stages: stored rollouts have one reward"
        if self.credit.demonstrations != "none":
            yield (
                "credit.demonstrations is for rl stages: "
                "here set demonstrations: true in the sample stage"
            )

    def check(self, context: Checking) -> list[str]:
        facts = super().check(context)
        with context.at("objective"):
            aim = build_objective(self.objective, max_tokens=context.recipe.engine.max_length)
            if aim.select is not None:
                raise RecipeError(
                    "it leaves out tokens by comparing those of a rollout batch, which this stage has none of: "
                    "use it in an rl stage, or another objective here"
                )
        with context.at("transform"):
            if check_transforms(self, aim, VERDICT).changes_tasks:
                raise RecipeError(
                    "one of them changes the task before it is encoded, and stored completions are tokens already: use those "
                    "that change the sample (docs/imitation.md says which)"
                )
        with context.at("credit"):
            build_credit(self.credit)
        total = self.steps * self.batch_size
        size = f"{self.steps} steps x {self.batch_size} stored completions = {total:,}"
        return [*facts, f"{self.label}: {size}"]

    def run(self, run: Run) -> None:
        run_offline(run, self)


def run_offline(run: Run, stage: OfflineStage) -> None:
    from rlcore.run.stored import read_stored

    objective = build_objective(stage.objective, max_tokens=run.max_length)
    stored = read_stored(run.stored(stage.data))
    samples = offline_samples(stored, stage, objective)
    if not samples:
        run.tracker.say(
            f"{stage.label}: {stage.data} holds nothing to learn from, so the stage is skipped"
        )
        run.end_stage()
        return
    run.tracker.say(f"{stage.label}: {len(samples):,} stored completions to learn from")
    task_of = {
        rollout.id: with_verdict(one.group.task, verdict)
        for one in stored
        for rollout, verdict in zip(one.group.rollouts, one.group.verdicts, strict=True)
    }
    tasks = [task_of[sample.id] for sample in samples]
    seed = derive(run.recipe.seed, "offline", run.cursor.stage)
    order = build_order(stage.curriculum, tasks, seed=seed)
    transforms = Transforms(stage.transform)
    learner = run.learner(stage, objective)
    run.resume_stage(learner, order)
    with run.tracker.stage(stage, done=run.cursor.stage_step):
        while stage.goes_on(run):
            watch = Stopwatch()
            positions = drawn(order, stage.batch_size, len(samples))
            mine = []
            for number, position in run.my_share(list(enumerate(positions))):
                sample: Sample | None = samples[position]
                if transforms:
                    sample = transformed(
                        run,
                        stage,
                        transforms,
                        tasks[position],
                        number,
                        seed=seed,
                        encode=partial(_stored_sample, samples[position]),
                    )
                if sample is not None:
                    mine.append(sample)
            report = learner.update(mine)
            order.observe(unrewarded(tasks, positions))
            watch.lap("learn")
            metrics = learner_metrics(report) | order.metrics() | watch.times()
            run.end_step(metrics, learner, order)
    run.end_stage(learner, order)


def _stored_sample(sample: Sample, task: Task) -> Sample:
    return sample


def offline_samples(
    stored: Sequence[Stored], stage: OfflineStage, objective: Objective
) -> list[Sample]:
    """What the stage trains on, in row order.

    Raises `RunError` for nothing, unless the stage may be skipped, and for rows without what the objective needs.
    """
    from rlcore.learner.gradient import reads_behaviour

    credited = build_credit(stage.credit)([one.group for one in stored])
    samples = [
        # Versions number the weights of the run that wrote the rows, not of this one: no completion here is on-policy.
        replace(
            sample,
            version=None,
            logprobs=None if sample.id in one.unrecorded else sample.logprobs,
        )
        for one, made in zip(stored, credited, strict=True)
        for kept in [_kept(one, stage)]
        for sample in made
        if sample.id in kept
    ]
    if not samples and stage.if_empty == "stop":
        raise RunError(
            f"no completion of {stage.data} is left to learn from: keep is {stage.keep!r}; look at the rows, sample more, "
            "or set if_empty=skip"
        )
    bare = next((sample.id for sample in samples if sample.logprobs is None), None)
    if bare is not None and reads_behaviour(objective):
        raise RunError(
            f"the objective {stage.objective!r} needs the log-probabilities of the policy that wrote a completion, and {bare!r} of "
            f"{stage.data} has none: leave such rows out, or use sft, awr or reinforce"
        )
    return samples


def _kept(one: Stored, stage: OfflineStage) -> set[str]:
    """Ids of the completions that `keep` and `distinct` choose."""
    ids: dict[str, str] = {}
    for rollout in KEEP[stage.keep](scored_rollouts(one.group)):
        ids.setdefault(rollout.id if stage.distinct is None else rollout.text, rollout.id)
    return set(list(ids.values())[: stage.distinct])


Scored = Sequence[tuple[Rollout, Verdict]]


def _correct(scored: Scored) -> list[Rollout]:
    return [rollout for rollout, verdict in scored if verdict.passed()]


def _incorrect(scored: Scored) -> list[Rollout]:
    return [rollout for rollout, verdict in scored if not verdict.passed()]


def _shortest(scored: Scored) -> list[Rollout]:
    """Kimi k1.5's shortest rejection sampling (arXiv 2501.12599, 2.4)."""
    return sorted(_correct(scored), key=lambda rollout: len(rollout.policy_ids))[:1]


def _best(scored: Scored) -> list[Rollout]:
    """Best of n; the first of several."""
    return [max(scored, key=lambda pair: pair[1].value)[0]] if scored else []


KEEP: dict[str, Callable[[Scored], Iterable[Rollout]]] = {
    "all": lambda scored: [rollout for rollout, _ in scored],
    "correct": _correct,
    "incorrect": _incorrect,
    "shortest": _shortest,
    "best": _best,
}
"""The completions of a task that the key `keep` chooses."""
