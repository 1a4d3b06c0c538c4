"""The keys of a recipe, their types, defaults and meaning. Checking one needs neither torch nor vllm.

Every key is declared once, here, with its description; an unknown key is an error (`recipe.load` names the nearest one).
The same classes are the Python API: `Recipe.model_validate({...})`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from rlcore.recipe.credit_sections import CreditSection, StepValuesSection
from rlcore.recipe.model_sections import EngineSection, ModelSection, PromptSection
from rlcore.recipe.optim_sections import OptimSection, UpdateSection
from rlcore.recipe.task_sections import Section, Tasks


class RewardSection(Section):
    use: str = Field(
        description="entry point, package.module:function, file.py:function, or information_gain, which the learner computes"
    )
    weight: float = Field(1.0, description="its share in the sum; 0 only logs it")
    params: dict[str, Any] = Field(default_factory=dict, description="extra keyword arguments")
    name: str = Field("", description="name in the metrics; default: the function's")
    optional: bool = Field(
        False, description="its None leaves it out of the sum, and not the answer out of training"
    )
    against: str = Field(
        "", description="a column with a reference completion, passed to the reward as `reference`"
    )


class SamplingSection(Section):
    max_tokens: PositiveInt = Field(256, description="longest answer")
    temperature: Annotated[float, Field(ge=0)] = Field(1.0, description="0 is greedy")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(1.0, description="nucleus; 1 is off")
    top_k: Annotated[int, Field(ge=0)] = Field(0, description="0 is off")
    stop: list[str] = Field(default_factory=list, description="texts that end an answer")


BUDGET_TEXT = "\nUse exactly {budget} tokens."


def _states(text: str) -> str:
    if "{budget}" not in text and "{prompt}" not in text:
        raise ValueError(f"{text!r} has neither {{budget}} nor {{prompt}}: it would state nothing")
    return text


BudgetText = Annotated[str, AfterValidator(_states)]


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


class Stage(Section):
    name: str = Field("", description="name in metrics and tables; default: the kind")

    @property
    def label(self) -> str:
        """What it is called in files and sentences."""
        return self.name or self.kind


class TaskStage(Stage):
    tasks: str = Field(description="which of the recipe's task sets")


class SftStage(TaskStage):
    kind: Literal["sft"]
    steps: PositiveInt = Field(description="optimiser steps")
    batch_size: PositiveInt = Field(128, description="demonstrations in a step, over all processes")
    optim: OptimSection = Field(default_factory=lambda: OptimSection(lr=1e-5))


class RlStage(TaskStage):
    kind: Literal["rl"]
    steps: PositiveInt = Field(description="optimiser steps")
    stop_after_tokens: PositiveInt | None = Field(
        None,
        description="end after the step that brings the tokens written in this stage, continuations too, to this number",
    )
    groups_per_step: PositiveInt = Field(32, description="tasks in a step, over all processes")
    group_size: PositiveInt = Field(8, description="answers to a task")
    rewards: list[RewardSection] = Field(
        min_length=1, description="summed by weight, or as `aggregate` says"
    )
    aggregate: str | dict[str, Any] = Field(
        "sum", description="how rewards become one value: a name, or {use: name, parameter: value}"
    )
    reward_deadline_s: PositiveFloat = Field(10.0, description="longest time for one reward call")
    reward_workers: PositiveInt = Field(
        2, description="processes that run rewards, in each process of the run"
    )
    sampling: SamplingSection = Field(default_factory=SamplingSection)
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


class EvalStage(TaskStage):
    kind: Literal["eval"]
    limit: PositiveInt | None = Field(None, description="evaluate the first so many tasks")
    weights: Literal["policy", "ema"] = Field(
        "policy", description="ema: the averaged weights of the last training stage"
    )
    num_samples: PositiveInt = Field(1, description="answers to a task; accuracy is their mean")
    budget: PositiveInt | None = Field(
        None, description="tokens that the prompt states, for a model trained with a budget"
    )
    budget_text: BudgetText = Field(
        BUDGET_TEXT, description="how the prompt states {budget}; put after it, or around {prompt}"
    )
    rewards: list[RewardSection] = Field(min_length=1, description="the first is the accuracy")
    reward_deadline_s: PositiveFloat = Field(10.0, description="longest time for one reward call")
    reward_workers: PositiveInt = Field(
        2, description="processes that run rewards, in each process of the run"
    )
    sampling: SamplingSection = Field(default_factory=lambda: SamplingSection(temperature=0.0))


class SampleStage(TaskStage):
    kind: Literal["sample"]
    limit: PositiveInt | None = Field(None, description="answer the first so many tasks")
    num_samples: PositiveInt = Field(8, description="answers to a task")
    demonstrations: bool = Field(
        False, description="score and keep the tasks' demonstrations too, as one more answer each"
    )
    steps: StepValuesSection | None = Field(
        None, description="ask the policy what each step was worth, and keep that"
    )
    rewards: list[RewardSection] = Field(min_length=1, description="summed by weight")
    reward_deadline_s: PositiveFloat = Field(10.0, description="longest time for one reward call")
    reward_workers: PositiveInt = Field(
        2, description="processes that run rewards, in each process of the run"
    )
    sampling: SamplingSection = Field(default_factory=SamplingSection)


class OfflineStage(Stage):
    kind: Literal["offline"]
    data: str = Field(
        description="a sample stage before this one, or a file or folder of stored rollouts (jsonl)"
    )
    keep: Literal["all", "correct", "incorrect"] = Field(
        "all", description="which answers are trained on, after credit saw all"
    )
    distinct: PositiveInt | None = Field(
        None, description="at most so many answers to a task, each text once"
    )
    steps: PositiveInt = Field(description="optimiser steps")
    batch_size: PositiveInt = Field(128, description="answers in a step, over all processes")
    credit: CreditSection = Field(
        default_factory=lambda: CreditSection(baseline="none", zero_variance="keep"),
        description="of credit.steps only the scheme counts: the values are the stored ones",
    )
    objective: str | dict[str, Any] = Field(
        "sft", description="a preset's name, or {preset: name, parameter: value}"
    )
    optim: OptimSection = Field(default_factory=lambda: OptimSection(lr=1e-5))


class PreferStage(Stage):
    kind: Literal["prefer"]
    data: str = Field(
        description="a sample stage before this one, or a file or folder of stored rollouts or of pairs (jsonl)"
    )
    pairs: Literal["answers", "first_pit", "shared_prefix", "given"] = Field(
        "answers",
        description="correct against wrong answer; against a wrong one up to its first pit; two next steps; or ready pairs",
    )
    per_task: PositiveInt | None = Field(None, description="at most so many pairs of a task")
    min_gap: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1,
        description="first_pit: least range of an answer's step values; shared_prefix: least difference of two steps'",
    )
    bradley_terry: bool = Field(
        False,
        description="shared_prefix: draw the winner with probability sigmoid(difference) instead of taking the better",
    )
    steps: PositiveInt = Field(description="optimiser steps")
    batch_size: PositiveInt = Field(64, description="pairs in a step, over all processes")
    micro_batch: PositiveInt | None = Field(
        None, description="pairs in one forward; default: those of a process's step"
    )
    beta: PositiveFloat = Field(
        0.1, description="how strongly the policy is held to the model the stage began with"
    )
    loss_type: str | dict[str, float] = Field(
        "sigmoid",
        description="a loss of TRL's DPOTrainer (ipo, hinge, sigmoid_norm, ...), or a mix: {sigmoid: 1.0, sft: 0.2}",
    )
    optim: UpdateSection = Field(default_factory=UpdateSection)

    @model_validator(mode="after")
    def _whole_batches(self) -> PreferStage:
        if self.micro_batch is not None and self.batch_size % min(
            self.micro_batch, self.batch_size
        ):
            raise ValueError(
                f"micro_batch is {self.micro_batch}, which does not divide batch_size ({self.batch_size})"
            )
        return self


AnyStage = Annotated[
    SftStage | RlStage | EvalStage | SampleStage | OfflineStage | PreferStage,
    Field(discriminator="kind"),
]


class RunSection(Section):
    folder: str = Field("runs", description="where run folders are made")
    checkpoint_every: PositiveInt = Field(
        50, description="optimiser steps between checkpoints; one is also made after each stage"
    )
    keep_checkpoints: PositiveInt = Field(2, description="older ones are removed")
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default_factory=list, description="also log there"
    )


class Recipe(Section):
    name: str = Field(description="names the run folder")
    seed: int = Field(0, description="of everything random")
    model: ModelSection
    engine: EngineSection = Field(default_factory=EngineSection)
    prompt: PromptSection = Field(default_factory=PromptSection)
    tasks: dict[str, Tasks] = Field(min_length=1, description="task sets by name")
    stages: list[AnyStage] = Field(
        min_length=1, description="run in order; each starts from what the one before left"
    )
    run: RunSection = Field(default_factory=RunSection)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(
                f"name is {self.name!r}, but it names a folder: use letters, digits, '.', '_' and '-'"
            )
        lora = (self.model.peft or {}).get("type") == "lora"
        if self.engine.sync == "adapter" and not (lora and self.engine.kind == "vllm_local"):
            raise ValueError(
                "engine.sync is adapter, which needs engine.kind vllm_local and model.peft of type lora"
            )
        for i, stage in enumerate(self.stages):
            if isinstance(stage, TaskStage) and stage.tasks not in self.tasks:
                raise ValueError(
                    f"stages.{i}.tasks is {stage.tasks!r}, but the recipe's task sets are: {', '.join(self.tasks)}"
                )
            alone = (
                isinstance(stage, RlStage)
                and stage.group_size == 1
                and stage.credit.demonstrations != "mixed"
            )
            if alone and stage.credit.baseline in ("mean", "mean_std", "leave_one_out"):
                raise ValueError(
                    f"stages.{i}.group_size is 1, and an answer alone is compared with nothing: raise it, or set credit.baseline"
                )
            if isinstance(stage, RlStage) and stage.sampling.temperature == 0:
                raise ValueError(
                    f"stages.{i}.sampling.temperature is 0: greedy answers to a task are all the same, so RL learns nothing"
                )
            if (
                isinstance(stage, RlStage | EvalStage | SampleStage)
                and stage.sampling.max_tokens >= self.engine.max_length
            ):
                raise ValueError(
                    f"stages.{i}.sampling.max_tokens ({stage.sampling.max_tokens}) leaves no room for a prompt in "
                    f"engine.max_length ({self.engine.max_length})"
                )
            if isinstance(stage, EvalStage) and stage.weights == "ema":
                trained = [
                    before
                    for before in self.stages[:i]
                    if not isinstance(before, EvalStage | SampleStage)
                ]
                if not trained or getattr(trained[-1].optim, "ema", None) is None:
                    raise ValueError(
                        f"stages.{i}.weights is ema, but the last training stage before it has no optim.ema: set it"
                    )
            if (
                isinstance(stage, OfflineStage)
                and stage.credit.steps
                and stage.credit.steps.keep != "none"
            ):
                raise ValueError(
                    f"stages.{i}.credit.steps.keep is for rl stages: nothing is continued here"
                )
            if isinstance(stage, OfflineStage) and stage.credit.demonstrations != "none":
                raise ValueError(
                    f"stages.{i}.credit.demonstrations is for rl stages: here set demonstrations: true in the sample stage"
                )
        return self
