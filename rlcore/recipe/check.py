"""What can be found out about a recipe without a model.

Does everything that it names exist, and do its tasks agree with its rewards?
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rlcore.errors import RecipeError, RewardError, RlcoreError
from rlcore.plugin import in_words
from rlcore.recipe.build import TaskSets, build_environments, worker_rewards
from rlcore.recipe.build_learner import (
    check_differences,
    check_engine,
    require_starting_point,
)
from rlcore.recipe.schema import Recipe
from rlcore.recipe.shared_sections import RewardSection
from rlcore.scoring.forms import ENVIRONMENT
from rlcore.scoring.goldcheck import check_reference_answers
from rlcore.types import Group, Prefix, Sample, Task

CheckedRewards = list[tuple[list[RewardSection], Mapping[str, tuple[str, ...]]]]
"""Rewards of a stage, and `Scorer.needs` of them."""
SHOWN_EXCEPTIONS = 10
"""Exceptions that `check_answers` prints of one task set."""
DEMONSTRATIONS_PLAYED = 3
"""Of a task set."""


@dataclass
class Checking:
    """What a stage is given to check itself."""

    recipe: Recipe
    tasks: Mapping[str, Sequence[Task]]
    """Task sets by name."""
    place: str
    """The stage's place in the recipe, as an override names it."""
    samples: Sequence[str]
    """Labels of the stages before this one that write samples."""
    checked_rewards: CheckedRewards = field(default_factory=list)
    """Rewards that a worker loaded already: some take a second to import."""

    def at(self, key: str) -> AbstractContextManager[None]:
        """Context in which an error begins with the place of the stage's `key`."""
        return at(f"{self.place}.{key}")

    def check_data(self, data: str) -> None:
        """Raise `RecipeError` where `data` is neither a sample stage nor a file."""
        if data in self.samples or Path(data).exists():
            return
        names = ", ".join(self.samples) or "(none)"
        raise RecipeError(
            f"{self.place}.data is {data!r}: neither a file or folder here "
            f"nor a sample stage before this one ({names})"
        )

    @staticmethod
    def no_engine(prefixes: Sequence[Prefix], left_s: float) -> list[Group]:
        """Stands for an engine where nothing is generated."""
        raise NotImplementedError("a recipe that is only checked continues nothing")

    @staticmethod
    def no_critic(groups: Sequence[Group]) -> list[list[Sample]]:
        """Stands for a critic where no model is loaded."""
        raise NotImplementedError("a recipe that is only checked values nothing")


def check(
    recipe: Recipe, tasks: dict[str, Sequence[Task]] | None = None, *, resumed: bool = False
) -> list[str]:
    """Build what can be built without a model; return facts that follow from the recipe.

    tasks: filled with the task sets by name, which may take long to make. resumed: of a run that goes on from its own
    checkpoint, so that the model it began with need not be there any more.
    Raises the part's own error for a preset, parameter, reward, column or data set that does not
    exist, with its place in the recipe before it: `stages.rl.filter: ...`.
    """
    tasks = {} if tasks is None else tasks
    with at("engine"):
        check_engine(recipe.engine)
        check_differences(recipe.engine, recipe.model)
    facts = []
    with at("model.path"):
        if isinstance(recipe.model.path, str) and not resumed:
            facts += require_starting_point(recipe.model.path)
    sets = TaskSets(recipe.tasks, recipe.stages)
    for name, section in recipe.tasks.items():
        with at(f"tasks.{name}"):
            tasks[name] = sets[name]
        if getattr(tasks[name], "deferred", False):
            facts.append(f"tasks {name}: {tasks[name]}, made when a stage asks for them")
            continue
        first = str(tasks[name][0].prompt)[:60]
        facts.append(f"tasks {name}: {len(tasks[name]):,} ({section.use}), first: {first!r}")
        if note := getattr(tasks[name], "note", ""):
            facts.append(f"tasks {name}: {note}")
    return facts + _stage_facts(recipe, tasks)


def _stage_facts(recipe: Recipe, tasks: Mapping[str, Sequence[Task]]) -> list[str]:
    facts: list[str] = []
    samples: list[str] = []
    checked_rewards: CheckedRewards = []
    labels = [stage.label for stage in recipe.stages]
    for i, stage in enumerate(recipe.stages):
        unique = labels.count(stage.label) == 1
        context = Checking(
            recipe=recipe,
            tasks=tasks,
            place=f"stages.{stage.label if unique else i}",
            samples=tuple(samples),
            checked_rewards=checked_rewards,
        )
        facts += stage.check(context)
        if stage.writes_samples:
            samples.append(stage.label)
    return facts


@contextmanager
def at(place: str) -> Iterator[None]:
    """Errors of a part begin with its place in the recipe.

    Whatever else it raises, over a parameter that its signature cannot describe, is named too.
    """
    try:
        yield
    except RlcoreError as error:
        raise type(error)(f"{place}: {error}") from error
    except Exception as error:
        raise RecipeError(f"{place}: {in_words(error)}") from error


def check_answers(recipe: Recipe, tasks: Mapping[str, Sequence[Task]], *, n: int) -> list[str]:
    """Score reference answers and corrupted ones of every task set with its rewards: a sentence a pair, one an exception.

    tasks: those that `check` made.
    """
    lines: list[str] = []
    checked = set()
    for stage in recipe.stages:
        if not hasattr(stage, "rewards"):
            continue
        specs = [spec for spec in worker_rewards(stage.rewards) if spec.use != ENVIRONMENT]
        if not specs or stage.env is not None:  # an answer alone is no conversation
            continue
        for name in [stage.tasks] if isinstance(stage.tasks, str) else stage.tasks:
            if (name, repr(stage.rewards)) not in checked:
                checked.add((name, repr(stage.rewards)))
                lines += _checked_answers(name, tasks[name], specs, n)
    return lines


def check_demonstrations(recipe: Recipe, tasks: Mapping[str, Sequence[Task]]) -> list[str]:
    """Play the first demonstrations of each stage that imitates episodes: a sentence a task set.

    tasks: those that `check` made.
    """
    from rlcore.env.kit.demonstrations import first_difference

    lines: list[str] = []
    for stage in recipe.stages:
        env = getattr(stage, "env", None)
        if env is None or not stage.imitates:
            continue
        of_set = islice(tasks[stage.tasks], DEMONSTRATIONS_PLAYED)
        shown = [task for task in of_set if isinstance(task.demonstration, list)]
        if not shown:
            continue
        with build_environments(env, workers=1) as pool:
            found = [first_difference(pool, task) for task in shown]
        wrong = [(task, words) for task, words in zip(shown, found, strict=True) if words]
        what = f"demonstrations of {stage.tasks} with the environment {env.spec.name}"
        if wrong:
            task, words = wrong[0]
            lines.append(
                f"{what}: {len(wrong)} of {len(shown)} differ; that of {task.id}: {words}"
            )
        else:
            lines.append(f"{what}: {len(shown)} played, all replies are the environment's")
    return lines


def _checked_answers(
    name: str, tasks: Sequence[Task], specs: Sequence[RewardSection], n: int
) -> list[str]:
    """The lines of one task set with one list of rewards."""
    report = check_reference_answers(tasks, specs, n=n)
    pair_name = f"reference answers of {name} with {', '.join(spec.name for spec in specs)}"
    if report.reference_rate is None:
        return [f"{pair_name}: NOT CHECKED, {_why_unchecked(tasks[:n])}"]
    rates = f"reference rate {report.reference_rate:.4g}, corrupted rate {report.corrupted_rate:.4g}"
    lines = [f"{pair_name}: {report.checked} checked, {rates}"]
    for count, what in (
        (report.without_answer, "tasks left out: their answer is neither text nor a number"),
        (
            report.wrong_demonstrations,
            "demonstrations that do not end in the reference answer",
        ),
    ):
        if count:
            lines.append(f"  {count} {what}")
    for e in report.exceptions[:SHOWN_EXCEPTIONS]:
        why = e.verdict.status
        if e.verdict.reason:
            why += f": {e.verdict.reason}"
        lines.append(
            f"  {e.kind} answer of {e.id} (reference {e.answer!r}) got {e.verdict.value} ({why}): {e.scored[-60:]!r}"
        )
    if len(report.exceptions) > SHOWN_EXCEPTIONS:
        lines.append(f"  and {len(report.exceptions) - SHOWN_EXCEPTIONS} more")
    unscored = all(e.verdict.value is None for e in report.exceptions)
    if report.exceptions and unscored and report.reference_rate == 0:
        raise RewardError(
            f"no reference answer of {name} could be scored: {report.exceptions[0].verdict.reason}"
        )
    return lines


def _why_unchecked(tasks: Sequence[Task]) -> str:
    """Why no reference answer of these tasks could be scored."""
    if all(task.answer is None for task in tasks):
        return "the tasks have none (right for rewards that need none)"
    return "none of those looked at holds text or a number; is columns.answer right?"
