"""What a stage is: a section of a recipe that can check itself and run.

A stage of your own is a subclass of `Stage` in any file, named in a recipe as `kind: my_stages.py:Probe`:

    class Probe(Stage):
        headline = ("probe/value",)
        steps: int = 10

        def run(self, run: Run) -> None:
            with run.tracker.stage(self, done=run.cursor.stage_step):
                while run.cursor.stage_step < self.steps:
                    run.end_step({"probe/value": 1.0})
            run.end_stage()

Loading and checking a recipe needs no torch, so stages import it inside their methods.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from rlcore.recipe.build import (
    build_environments,
    build_policy_reward,
    build_rule,
    policy_rewards,
)
from rlcore.recipe.env_section import EnvSection
from rlcore.recipe.model_sections import may_be_model
from rlcore.recipe.section import OptionalName, Section
from rlcore.recipe.shared_sections import RewardSection, SamplingSection, ScoringSection
from rlcore.scoring.forms import ENVIRONMENT
from rlcore.stages.env_check import check_environment
from rlcore.stages.exam_check import check_exam, exam_problems
from rlcore.stages.reward_check import check_worker_rewards
from rlcore.stages.source_check import check_reward_model
from rlcore.types import Outcome, Task

if TYPE_CHECKING:
    from rlcore.learner.update import Learner
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.run.batches import BatchSource
    from rlcore.run.session import Run


class Stage(Section):
    """The fields of a subclass are its keys in a recipe."""

    headline: ClassVar[tuple[str, ...]] = ("loss",)
    """Metrics that tables and progress lines show; the first is the stage's main number."""
    trains: ClassVar[bool] = True
    """Whether the stage changes the policy."""
    trains_reward_model: ClassVar[bool] = False
    """Whether the stage leaves a reward model that rewards of later stages can name."""
    writes_samples: ClassVar[bool] = False
    """Whether the stage leaves rollouts that later stages can name in `data`."""

    files: ClassVar[str] = ""
    """Folder of the run in which the stage writes files of its name."""

    kind: str = Field(
        description="sft, rl, eval, sample, offline, prefer, reward_model, reward_experts, merge, or file.py:Class"
    )
    name: OptionalName = Field("", description="name in metrics and tables; default: the kind")

    @property
    def label(self) -> str:
        """The stage's name in files and sentences."""
        return self.name or self.kind.rpartition(":")[2]

    @property
    def imitates(self) -> bool:
        """Whether the stage learns from the demonstrations of its tasks: then every row needs one."""
        return False

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        """What does not fit the rest of the recipe, as sentences that begin with a key.

        before: the stages that run before this one.
        """
        return iter(())

    def check(self, context: Checking) -> list[str]:
        """Build what can be built without a model; return facts that follow from the recipe.

        Raises the part's own error, inside `context.at(key)`.
        """
        return []

    def run(self, run: Run) -> None:
        """Run the stage from where the cursor stands to its end, and call `run.end_stage`."""
        raise NotImplementedError

    def after_step(
        self, run: Run, learner: Learner | None, batches: BatchSource | None
    ) -> None:
        """What is done after each step is logged and before it is saved. Collective."""


class TrainingKeys(Stage):
    """A training stage whose policy can be evaluated between its steps."""

    eval_every: PositiveInt | None = Field(
        None,
        description="evaluate after every so many steps, as the first eval stage after this stage says",
    )
    keep_best: bool = Field(
        False,
        description="with eval_every: keep the model of the most accurate evaluation in best/",
    )
    patience: PositiveInt | None = Field(
        None,
        description="with eval_every: end the stage after so many evaluations in a row that are not more accurate than the best "
        "one before them",
    )

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        if self.keep_best and self.eval_every is None:
            yield "keep_best has no effect without eval_every"
        if self.patience is not None and self.eval_every is None:
            yield "patience has no effect without eval_every"
        if self.eval_every is None:
            return
        stage = next_evaluation(recipe, len(before))
        if stage is None:
            yield "eval_every needs an eval stage after this stage, which says how to evaluate"
        elif (
            stage.weights == "ema"
            and getattr(getattr(self, "optim", None), "ema", None) is None
        ):
            yield f"eval_every evaluates as {stage.label} says, whose weights are ema: set optim.ema"
        steps = getattr(self, "steps", None)
        if steps is not None and self.eval_every > steps:
            yield f"eval_every is {self.eval_every}, but the stage has only {steps} steps"

    def goes_on(self, run: Run) -> bool:
        """Whether the stage has a further step: not after `steps`, and not when `patience` is over. Collective."""
        if run.cursor.stage_step >= self.steps:
            return False
        if self.patience is None or run.cursor.stage_step % self.eval_every:
            return True
        from rlcore.run.evaluation import evaluations_without_gain

        # One process decides for all: only its file is sure to hold what was evaluated before.
        rows = run.folder.evaluations()
        without = evaluations_without_gain(rows, self.label, run.cursor.stage)
        return run.gather([without])[0] < self.patience

    def after_step(
        self, run: Run, learner: Learner | None, batches: BatchSource | None
    ) -> None:
        if self.eval_every is None or run.cursor.stage_step % self.eval_every:
            return
        from rlcore.stages.eval import evaluate_during

        stage = next_evaluation(run.recipe, run.cursor.stage)
        evaluate_during(run, self, stage, learner, batches)


def next_evaluation(recipe: Recipe, position: int) -> Any:
    """The first eval stage after the stage at `position`; None if there is none."""
    from rlcore.stages.eval import EvalStage

    later = recipe.stages[position + 1 :]
    return next((stage for stage in later if isinstance(stage, EvalStage)), None)


class OrderKeys(Stage):
    """A stage that imitates what it reads in an order of the recipe's choice."""

    curriculum: str | dict[str, Any] = Field(
        "uniform",
        description="what next: uniform, ordered, folded, cyclic, mixture, phases, ... that need no rewards, or {use: name, "
        "parameter: value}; docs/curricula.md",
    )


def unrewarded(
    tasks: Sequence[Task], positions: Sequence[int], losses: Mapping[int, float] | None = None
) -> list[Outcome]:
    """What a curriculum observes of tasks that were imitated: which they were, and their losses by number in the batch."""
    return [
        Outcome(
            index=position,
            category=tasks[position].category or "",
            rewards=(),
            abs_advantage=0.0,
            loss=(losses or {}).get(number),
        )
        for number, position in enumerate(positions)
    ]


def sampled_by(recipe: Recipe, name: str) -> str | None:
    """`data` of a task set that is made of completions; None for any other set."""
    section = recipe.tasks[name]
    return section.parameters.get("data") if section.use == "sampled" else None


class TaskStage(Stage):
    """A stage that reads a task set."""

    tasks: str = Field(description="name of one of the recipe's task sets")

    @property
    def task_sets(self) -> list[str]:
        """Names of the task sets that the stage reads."""
        return [self.tasks] if isinstance(self.tasks, str) else self.tasks

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        for name in self.task_sets:
            if name not in recipe.tasks:
                names = ", ".join(recipe.tasks)
                yield f"tasks is {name!r}, but the recipe's task sets are: {names}"
                continue
            data = sampled_by(recipe, name)
            later = [stage.label for stage in recipe.stages if stage.writes_samples]
            if data in later and data not in [stage.label for stage in before]:
                yield f"tasks is {name!r}, which is made of what stage {data} samples: it must run before this one"


class GeneratingStage(TaskStage):
    """A stage whose completions are scored."""

    rewards: list[RewardSection] = Field(
        min_length=1, description="the first decides what is correct"
    )
    scoring: ScoringSection = Field(default_factory=ScoringSection)
    sampling: SamplingSection = Field(default_factory=SamplingSection)
    env: EnvSection | None = Field(
        None, description="what the policy talks to, in several turns; docs/environments.md"
    )

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        longest = recipe.engine.max_length
        if self.sampling.max_tokens >= longest:
            yield (
                f"sampling.max_tokens ({self.sampling.max_tokens}) leaves no room for a prompt "
                f"in engine.max_length ({longest})"
            )
        uses_environment = any(reward.use == ENVIRONMENT for reward in self.rewards)
        if uses_environment and self.env is None:
            yield "rewards name environment, but the stage has no env"
        for reward in self.rewards:
            if reward.turn is not None and (self.env is None or reward.use == ENVIRONMENT):
                yield f"turn of the reward {reward.use} has no effect: it chooses among the turns of a stage with env"
        late = policy_rewards(self.rewards)
        if self.sampling.temperature == 0 and any(spec.use == "latent_weight" for spec in late):
            yield "rewards: latent_weight needs thoughts that are drawn: set sampling.temperature above 0"
        for reward in late:
            if reward.where:
                yield f"rewards: where has no effect on {reward.use}, which the learner computes for all tasks; leave it out"
        if self.env is not None and late:
            yield f"rewards: {late[0].use} reads single-turn rollouts; leave it out, or leave out env"
        yield from exam_problems(recipe, self)
        trained = [stage.label for stage in before if stage.trains_reward_model]
        for spec in late:
            model = spec.params.get("model")
            if spec.use != "reward_model" or not isinstance(model, str):
                continue
            if model not in trained and not may_be_model(model):
                names = ", ".join(trained) or "(none)"
                yield (
                    f"rewards: the model of reward_model is {model!r}: neither a reward_model stage before this one ({names}) "
                    "nor a folder here nor a hub name, owner/name"
                )

    def check(self, context: Checking) -> list[str]:
        with context.at("env"), build_environments(self.env, workers=1) as pool:
            if pool is not None:
                check_environment(context, self, pool)
        facts = []
        with context.at("rewards"):
            check_worker_rewards(context, self)
            for spec in policy_rewards(self.rewards):
                build_policy_reward(spec, None)
                if spec.use == "student_exam":
                    check_exam(context, self, spec)
                if spec.use == "reward_model":
                    facts += check_reward_model(context, self, spec)
        with context.at("aggregate"):
            build_rule(self)
        return super().check(context) + facts


def equal_samples(num_samples: int, sampling: SamplingSection) -> Iterator[str]:
    """A sentence for several completions a task that are bound to be equal."""
    if num_samples > 1 and sampling.temperature == 0:
        yield (
            f"num_samples is {num_samples}, and at sampling.temperature 0 the completions of a task are all the same: "
            "set it to 1, or raise the temperature"
        )


class DataStage(Stage):
    """A stage that reads stored rollouts."""

    data: str = Field(
        description="a sample stage before this one, or a file or folder of stored rollouts (jsonl)"
    )

    def check(self, context: Checking) -> list[str]:
        context.check_data(self.data)
        return super().check(context)


class SkippableStage(DataStage):
    """A stage that may find nothing to learn from in its data."""

    if_empty: Literal["stop", "skip"] = Field(
        "stop",
        description="what happens if the data hold nothing to learn from: stop the run, or skip the stage, as the last rounds of a "
        "loop may need",
    )
