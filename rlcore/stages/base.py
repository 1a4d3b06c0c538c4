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

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from rlcore.recipe.build import build_policy_reward, build_rule, build_scorer, policy_rewards
from rlcore.recipe.section import OptionalName, Section
from rlcore.recipe.shared_sections import RewardSection, SamplingSection, ScoringSection
from rlcore.scoring.aggregate import weighted_sum

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.run.session import Run


class Stage(Section):
    """The fields of a subclass are its keys in a recipe."""

    headline: ClassVar[tuple[str, ...]] = ("loss",)
    """Metrics that tables and progress lines show; the first is the stage's main number."""
    trains: ClassVar[bool] = True
    """Whether the stage changes the policy."""
    writes_samples: ClassVar[bool] = False
    """Whether the stage leaves rollouts that later stages can name in `data`."""

    files: ClassVar[str] = ""
    """Folder of the run in which the stage writes files of its name."""

    kind: str = Field(description="sft, rl, eval, sample, offline, prefer, or file.py:Class")
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


class TaskStage(Stage):
    """A stage that reads a task set."""

    tasks: str = Field(description="name of one of the recipe's task sets")

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        if self.tasks not in recipe.tasks:
            names = ", ".join(recipe.tasks)
            yield f"tasks is {self.tasks!r}, but the recipe's task sets are: {names}"


class GeneratingStage(TaskStage):
    """A stage whose completions are scored."""

    rewards: list[RewardSection] = Field(
        min_length=1, description="the first decides what is correct"
    )
    scoring: ScoringSection = Field(default_factory=ScoringSection)
    sampling: SamplingSection = Field(default_factory=SamplingSection)

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        longest = recipe.engine.max_length
        if self.sampling.max_tokens >= longest:
            yield (
                f"sampling.max_tokens ({self.sampling.max_tokens}) leaves no room for a prompt "
                f"in engine.max_length ({longest})"
            )

    def check(self, context: Checking) -> list[str]:
        with context.at("rewards"):
            if self.rewards not in context.checked_rewards:
                small = self.model_copy(update={"scoring": ScoringSection(workers=1)})
                build_scorer(small, weighted_sum).close()
                context.checked_rewards.append(self.rewards)
            for spec in policy_rewards(self.rewards):
                build_policy_reward(spec, None)
        with context.at("aggregate"):
            build_rule(self)
        return super().check(context)


class DataStage(Stage):
    """A stage that reads stored rollouts."""

    data: str = Field(
        description="a sample stage before this one, or a file or folder of stored rollouts (jsonl)"
    )

    def check(self, context: Checking) -> list[str]:
        context.check_data(self.data)
        return super().check(context)
