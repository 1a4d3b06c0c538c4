"""What must hold of a stage with the reward `student_exam`: its exam, its student and their tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from rlcore.errors import RecipeError
from rlcore.recipe.build import policy_rewards
from rlcore.recipe.build_learner import require_starting_point
from rlcore.recipe.model_sections import may_be_model
from rlcore.recipe.teacher_section import POLICY
from rlcore.run.exam_questions import ExamQuestions, prompt_text
from rlcore.run.student_exam import check_spec
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.tasks.lazy import LOOKED_AT

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.stages.base import GeneratingStage


def exams_of(stage: GeneratingStage) -> list[RewardSpec]:
    """The stage's rewards that examine a student."""
    return [spec for spec in policy_rewards(stage.rewards) if spec.use == "student_exam"]


def exam_problems(recipe: Recipe, stage: GeneratingStage) -> Iterator[str]:
    """What does not fit the rest of the recipe, as sentences that begin with a key."""
    for spec in exams_of(stage):
        questions = spec.params.get("questions")
        if isinstance(questions, str) and questions not in recipe.tasks:
            names = ", ".join(recipe.tasks)
            yield f"rewards: the questions of student_exam are {questions!r}, but the recipe's task sets are: {names}"
        student = spec.params.get("student", POLICY)
        if isinstance(student, str) and student != POLICY and not may_be_model(student):
            yield (
                f"rewards: the student of student_exam is {student!r}: neither policy nor a folder here "
                "nor a hub name, owner/name"
            )


def check_exam(context: Checking, stage: GeneratingStage, spec: RewardSpec) -> None:
    """Raise the part's own error for a student without a model, a check that is no reward, a taught
    task without an exam, and an exam that shares questions with what a stage evaluates.
    """
    student = spec.params.get("student", POLICY)
    if student != POLICY:
        require_starting_point(student)
    Scorer([check_spec(spec.params.get("check", "exact"))], workers=1).close()
    name = spec.params["questions"]
    questions = ExamQuestions(
        context.tasks[name], name=name, by=spec.params.get("by", "category")
    )
    for taught in stage.task_sets:
        for task in islice(context.tasks[taught], LOOKED_AT):
            questions.of(task)
    asked = {prompt_text(task.prompt) for task in context.tasks[name]}
    for evaluated in evaluated_sets(context.recipe):
        tasks = context.tasks[evaluated]
        shared = [task.id for task in tasks if prompt_text(task.prompt) in asked]
        if shared:
            raise RecipeError(
                f"{len(shared):,} of the {len(tasks):,} questions of {evaluated}, which a stage evaluates, "
                f"are also in {name}, of which student_exam asks (first: {shared[0]!r}): completions would be chosen by what they are "
                "measured on; leave them out of one of the two"
            )


def evaluated_sets(recipe: Recipe) -> Sequence[str]:
    """Names of the task sets on which stages measure the policy."""
    from rlcore.stages.eval import EvalStage

    stages = [stage for stage in recipe.stages if isinstance(stage, EvalStage)]
    return list(dict.fromkeys(name for stage in stages for name in stage.task_sets))
