"""The key `teacher` of a stage that distils, and what must fit it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from pydantic import Field

from rlcore.errors import RecipeError
from rlcore.plugin import did_you_mean
from rlcore.recipe.build_credit import WHITENED
from rlcore.recipe.build_learner import (
    build_objective,
    require_policys_tokens,
    require_starting_point,
)
from rlcore.recipe.teacher_section import POLICY, TeacherSection, column_of, teacher_task
from rlcore.stages.base import Stage
from rlcore.tasks.lazy import LOOKED_AT

if TYPE_CHECKING:
    from rlcore.objective.term import Objective
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.types import Task


class TeacherKeys(Stage):
    """A stage whose objective may pull to a teacher."""

    teacher: TeacherSection | None = Field(
        None,
        description="a frozen model that scores the policy's tokens, for method opd or gkd, or an objective with teacher; "
        "docs/distillation.md",
    )

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        if self.teacher is None:
            return
        sampling = self.sampling
        if sampling.top_p < 1 or sampling.min_p > 0 or sampling.top_k > 0:
            yield (
                "teacher: it scores the whole vocabulary, and sampling cuts it: leave out top_p, top_k and min_p"
            )
        if self.teacher.engine is not None and sampling.temperature != 1:
            yield (
                f"teacher.engine scores at temperature 1, and sampling.temperature is {sampling.temperature:g}: "
                "set it to 1, or leave out teacher.engine"
            )
        if self.teacher.prompt is not None and self.env is not None:
            yield "teacher.prompt is for completions of one prompt: leave it out, or leave out env"
        baseline = self.credit.baseline
        whole_step = isinstance(baseline, str) and baseline in WHITENED
        if self.credit.zero_variance == "drop" and not whole_step:
            yield (
                "teacher: credit.zero_variance is drop, so groups of equal rewards would not be distilled: set it to keep"
            )

    def check(self, context: Checking) -> list[str]:
        facts = super().check(context)
        with context.at("objective"):
            objective = build_objective(self.objective, max_tokens=self.sampling.max_tokens)
        with context.at("teacher"):
            check_teacher(self.teacher, objective)
            if self.teacher is not None:
                if self.credit.baseline == "zero":
                    refuse_itself(self.teacher)
                for path in self.teacher.paths:
                    facts += require_starting_point(path)
                    require_policys_tokens(context.recipe.model, path)
                task = context.tasks[self.tasks][0]
                if self.teacher.prompt is not None:
                    teacher_task(task, self.teacher.prompt)
                if self.teacher.several:
                    require_teachers(self.teacher, context.tasks[self.tasks])
        return facts


def require_teachers(teacher: TeacherSection, tasks: Sequence[Task]) -> None:
    """Raise `RecipeError` where one of the first tasks has no teacher."""
    for task in islice(tasks, LOOKED_AT):
        name = str(column_of(task, teacher.by))
        if name not in teacher.models:
            raise RecipeError(
                f"task {task.id!r} has {name!r} in {teacher.by!r}, and model has no such teacher"
                f"{did_you_mean(name, teacher.models)}"
            )


def refuse_itself(teacher: TeacherSection) -> None:
    """Raise `RecipeError` for a teacher that says what the policy says, where rewards are not learned from."""
    is_policy = set(teacher.models.values()) == {POLICY}
    if is_policy and teacher.prompt is None and teacher.base is None:
        raise RecipeError(
            "it is the policy and reads what the policy reads, so there is nothing to learn: give it a prompt of its own, "
            "such as '{prompt} Hint: {answer}', or another model"
        )


def check_teacher(teacher: TeacherSection | None, objective: Objective) -> None:
    """Raise `RecipeError` where only one of teacher and objective knows of the other, or they differ in what is scored."""
    if teacher is None:
        if objective.needs_teacher:
            raise RecipeError(
                "the stage's objective pulls to a teacher: name one, as in teacher: {model: runs/large}, "
                "or the policy itself with more to read, {model: policy, prompt: '{prompt} Hint: {answer}'}"
            )
        return
    if not objective.needs_teacher:
        raise RecipeError(
            "it has no effect: the stage's objective does not read it; set method: opd or gkd, or objective.teacher"
        )
    reads = objective.reads
    if "teacher_top" in reads and not teacher.top_k:
        raise RecipeError(
            "the objective's divergence sums over the teacher's most probable tokens: set teacher.top_k, for example to 32"
        )
    if "teacher_top" not in reads and teacher.top_k:
        raise RecipeError(
            "top_k has no effect: the objective's divergence reads the sampled token alone"
        )
    if ("teacher_base" in reads) != (teacher.base is not None):
        raise RecipeError(
            "the divergence implicit and the key teacher.base go together: set both or neither"
        )
