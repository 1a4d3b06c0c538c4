"""Stage `sft`: imitate the demonstrations of a task set. The same learner as RL, with advantage 1 on every completion token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt

from rlcore.credit.demonstrations import demonstration_sample, trained_whole
from rlcore.curriculum.task_sampler import drawn
from rlcore.errors import RecipeError, RunError
from rlcore.objective.term import Objective
from rlcore.recipe.build import build_environments, build_order
from rlcore.recipe.build_learner import build_objective, build_policy
from rlcore.recipe.env_section import EnvSection
from rlcore.recipe.optim_sections import OptimSection
from rlcore.rollout.conversation import Conversation
from rlcore.rollout.demonstration import encode_demonstration
from rlcore.run.metrics import learner_metrics
from rlcore.run.seeds import derive
from rlcore.run.stopwatch import Stopwatch
from rlcore.stages.base import OrderKeys, Stage, TaskStage, TrainingKeys, sampled_by, unrewarded
from rlcore.stages.transform_keys import TransformKey, check_transforms, transformed
from rlcore.tasks.made import restarts
from rlcore.transforms.transform import Transforms
from rlcore.types import Sample, Task

if TYPE_CHECKING:
    from rlcore.learner.update import Learner
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.rollout.prompt import PromptEncoder
    from rlcore.run.session import Run

LOOKED_AT = 20
"""First tasks of a set whose columns are those of all."""


class SftStage(TransformKey, OrderKeys, TrainingKeys, TaskStage):
    headline = ("loss", "entropy")

    steps: PositiveInt = Field(description="steps, each of one update")
    batch_size: PositiveInt = Field(
        128, description="demonstrations in a step, over all processes"
    )
    objective: str | dict[str, Any] = Field(
        "sft",
        description="sft, dft, or another preset that needs no rewards; docs/imitation.md",
    )
    train_on: Literal["completion", "all"] = Field(
        "completion", description="tokens of the demonstration alone, or the prompt's too"
    )
    start: Literal["policy", "model"] | None = Field(
        None,
        description="weights that the stage begins with: policy, what the stage before left, or model, the recipe's own; "
        "default: policy, and model for tasks of latent_thoughts, whose rounds begin anew",
    )
    optim: OptimSection = Field(default_factory=lambda: OptimSection(lr=1e-5))
    env: EnvSection | None = Field(
        None, description="prompts show the tools of this environment; nothing is asked of it"
    )

    @property
    def imitates(self) -> bool:
        return True

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        if self.optim.continues and self.begins_anew(recipe):
            yield "optim goes on, and the stage begins with the weights of the recipe's model: set start to policy, or leave out continue"

    def begins_anew(self, recipe: Recipe) -> bool:
        """Whether the stage begins with the recipe's own model."""
        if self.start is not None or sampled_by(recipe, self.tasks) is None:
            return self.start == "model"
        made_by = recipe.tasks[self.tasks].parameters.get("make", "completions")
        return restarts(made_by)

    def check(self, context: Checking) -> list[str]:
        with context.at("curriculum"):
            build_order(
                self.curriculum, context.tasks[self.tasks], seed=0, measures_losses=True
            )
        with context.at("objective"):
            objective = imitating(self)
        with context.at("transform"):
            first = context.tasks[self.tasks][:LOOKED_AT]
            columns = {name for task in first for name in task.columns}
            check_transforms(self, objective, columns)
        total = self.steps * self.batch_size
        fact = (
            f"{self.label}: {self.steps} steps x {self.batch_size} demonstrations = {total:,}"
        )
        if self.begins_anew(context.recipe):
            fact += ", from the weights of the recipe's model"
        return [*super().check(context), fact]

    def run(self, run: Run) -> None:
        run_sft(run, self)


def run_sft(run: Run, stage: SftStage) -> None:
    from rlcore.learner.gradient import reads_behaviour
    from rlcore.learner.report import merge_reports

    tasks = run.tasks(stage.tasks)
    if run.cursor.stage_step == 0 and stage.begins_anew(run.recipe):
        run.replace_policy(build_policy(run.recipe, None, run.accelerator))
    seed = derive(run.recipe.seed, "sft", run.cursor.stage)
    curriculum = build_order(stage.curriculum, tasks, seed=seed, measures_losses=True)
    by_losses = getattr(curriculum, "learns_from_losses", False)
    objective = imitating(stage)
    if reads_behaviour(objective):
        raise RunError(
            f"stage {stage.label}: the objective {stage.objective!r} needs the log-probabilities of the policy that wrote a "
            "completion, and demonstrations have none: use sft or dft"
        )
    learner = run.learner(stage, objective)
    run.resume_stage(learner, curriculum)
    sample_of = demonstrations(run, stage, seed=seed)
    with run.tracker.stage(stage, done=run.cursor.stage_step):
        while stage.goes_on(run):
            watch = Stopwatch()
            positions = drawn(curriculum, stage.batch_size, len(tasks))
            # Numbers count over all ranks: chance does not depend on how many there are.
            mine = run.my_share(list(enumerate(positions)))
            made = {number: sample_of(tasks[position], number) for number, position in mine}
            samples = {number: sample for number, sample in made.items() if sample is not None}
            left_out = left_out_metric(run, stage, len(samples)) if stage.transform else {}
            losses, tokens_read = losses_now(run, learner, samples) if by_losses else ({}, 0)
            report = learner.update(list(samples.values()))
            report = merge_reports([report], forward_only_tokens=tokens_read)
            curriculum.observe(unrewarded(tasks, positions, losses))
            watch.lap("learn")
            metrics = learner_metrics(report) | left_out | curriculum.metrics() | watch.times()
            run.end_step(metrics, learner, curriculum)
    run.end_stage(learner, curriculum)


def left_out_metric(run: Run, stage: SftStage, kept: int) -> dict[str, float]:
    """The fraction of a step's demonstrations that the transform left out, where it left out some.

    Collective. kept: by this rank.
    """
    left_out = stage.batch_size - sum(run.gather([kept]))
    return {"transform/frac_left_out": left_out / stage.batch_size} if left_out else {}


def losses_now(
    run: Run, learner: Learner, samples: Mapping[int, Sample]
) -> tuple[dict[int, float], int]:
    """The loss of each demonstration under the present policy, nats per trained token, of all ranks by number in the batch;
    and the tokens that were read for it.
    """
    read, tokens = learner.with_old_logprobs(list(samples.values()))
    losses = []
    for number, sample in zip(samples, read, strict=True):
        if any(sample.mask):
            # 0 at tokens that are not trained
            losses.append((number, -sum(sample.old_logprobs) / sum(sample.mask)))
    return dict(run.gather(losses)), tokens


def demonstrations(
    run: Run, stage: SftStage, *, seed: int
) -> Callable[[Task, int], Sample | None]:
    """A function from a task and its number in the batch to what the stage trains on; None where a transform leaves it out."""
    encoder = encoder_with_tools(run, stage.env)
    transforms = Transforms(stage.transform)
    whole = stage.train_on == "all"

    def sample_of(task: Task, number: int) -> Sample | None:
        if not transforms:
            return demonstrate(encoder, task, whole=whole)
        return transformed(
            run,
            stage,
            transforms,
            task,
            number,
            seed=seed,
            encode=partial(demonstrate, encoder),
            widen=trained_whole if whole else None,
        )

    return sample_of


def encoder_with_tools(run: Run, env: EnvSection | None) -> PromptEncoder:
    """The run's encoder; with an environment, prompts show its tools."""
    with build_environments(env, workers=1) as pool:
        if pool is None or not pool.tools:
            return run.encoder
        return Conversation(run.encoder, pool.tools).encoder


def imitating(stage: SftStage) -> Objective:
    """The stage's objective. Raises `RecipeError` for one that needs more than demonstrations."""
    objective = build_objective(stage.objective, max_tokens=10**9)
    if objective.needs_teacher or objective.select is not None:
        raise RecipeError(
            f"{stage.objective!r} reads a teacher or compares the completions of a step, and demonstrations have neither: "
            "use sft or dft"
        )
    if "policy" not in objective.streams:
        raise RecipeError(
            f"{stage.objective!r} reads {', '.join(objective.streams)}, and the demonstrations of this stage are the stream policy"
        )
    return objective


def demonstrate(encoder: PromptEncoder, task: Task, *, whole: bool = False) -> Sample:
    """The task's demonstration as a sample. That it fits was checked when the run began (`run.usable`).

    whole: the prompt's tokens are trained too, but the first, which nothing predicts.
    """
    token_ids, mask = encode_demonstration(encoder, task)
    sample = demonstration_sample(task.id, encoder.encode(task), token_ids, imitated=mask)
    return trained_whole(sample) if whole else sample
