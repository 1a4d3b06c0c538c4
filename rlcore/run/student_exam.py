"""The reward `student_exam`: the score of a student that is taught by a completion.

Learning by teaching (LbT, arXiv 2406.14629): the LbT score of a teacher's rationale and answer is
the accuracy of a student on similar questions with them as example in its context. ARTE (arXiv
2406.19227) ranks the drafts of a data generator by it.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from rlcore.errors import RecipeError
from rlcore.recipe.teacher_section import POLICY
from rlcore.run.exam_questions import ExamQuestions, check_template, with_example
from rlcore.run.exam_scores import ExamScores
from rlcore.run.seeds import derive
from rlcore.run.student import Question, Student, student_section
from rlcore.scoring.forms import RewardSpec
from rlcore.scoring.scorer import Scorer
from rlcore.types import Group, Rollout, Sampling, Task


class ExamScore(NamedTuple):
    value: float | None
    """Fraction of the exam that the student solves; None where it cannot read the example."""


@dataclass(frozen=True)
class ExamContext:
    """What the reward takes from the run."""

    tasks_of: Callable[[str], Sequence[Task]]
    """The task set of a name."""
    student_of: Callable[[str, Any], Student]
    """The student of a path, behind an engine. Collective."""
    scores: ExamScores


@dataclass(frozen=True)
class _Exam:
    """The exam behind one example: the questions as the student reads them, and their key in the scores."""

    key: str
    taught: str
    questions: list[Task]


class StudentExam:
    """Accuracy of a student, 0 to 1, on an exam behind prompt and completion as its example.

    questions: task set of the recipe from which the exam is drawn; never the taught question itself.
    student: hub name, folder or run folder of the student; policy is the model that the stage
    began with. check: reward that marks the student's answers, with its parameters.
    num_questions: of an exam; null: all that fit. by: column in which exam and taught
    question agree, null: any question. num_samples, temperature, max_tokens: of the student's
    answers to each question; temperature 0 is greedy. template: the student's prompt,
    with {prompt}, {completion} and {question}; by default the example is a conversation of its own
    in the prompt format chat, and stands line by line before the question in plain.
    engine: what runs the student, as the recipe's engine; null: transformers. An exam is taken once:
    scores are kept by student, example and questions. A completion too long for the student has no score.
    """

    def __init__(
        self,
        policy: Any,
        *,
        questions: str,
        student: str = POLICY,
        check: str | dict[str, Any] = "exact",
        num_questions: Annotated[int, Field(ge=1)] | None = 8,
        by: str | None = "category",
        num_samples: Annotated[int, Field(ge=1)] = 1,
        temperature: Annotated[float, Field(ge=0, le=100)] = 0.0,
        max_tokens: Annotated[int, Field(ge=1)] = 256,
        template: str | None = None,
        engine: str | dict[str, Any] | None = None,
        exam_context: ExamContext | None = None,
    ) -> None:
        """policy: the run's, which is not read. It and exam_context are None where a recipe is only checked."""
        if template is not None:
            check_template(template)
        if num_samples > 1 and temperature == 0:
            raise RecipeError(
                "num_samples of student_exam has no effect at temperature 0: "
                "raise the temperature, or leave it out"
            )
        if engine is not None:
            student_section(engine)
        self._check = check_spec(check)
        self._template = template
        self._num_samples = num_samples
        self._sampling = Sampling(max_tokens=max_tokens, temperature=temperature)
        if policy is None or exam_context is None:
            return
        self._questions = ExamQuestions(
            exam_context.tasks_of(questions), name=questions, by=by, num_questions=num_questions
        )
        self._scores = exam_context.scores
        self._student = exam_context.student_of(student, engine)
        self._identity = self._student.engine.fingerprint()
        self._scorer = Scorer([self._check], workers=1)
        weakref.finalize(self, _close, self._student, self._scorer)

    def __call__(self, groups: Sequence[Group]) -> list[list[ExamScore]]:
        """Scores of each group's rollouts, in their order."""
        exams = []
        for group in groups:
            for rollout in group.rollouts:
                rollout.require_single_turn("the reward student_exam")
            questions = self._questions.of(group.task)
            exams.append([self._exam(group.task, one, questions) for one in group.rollouts])
        new = {
            exam.key: exam
            for of_group in exams
            for exam in of_group
            if exam.key not in self._scores
        }
        self._take(list(new.values()))
        return [[ExamScore(self._scores[exam.key]) for exam in of_group] for of_group in exams]

    def _exam(self, taught: Task, rollout: Rollout, questions: Sequence[Task]) -> _Exam:
        read = [
            with_example(
                question,
                taught,
                rollout.text,
                template=self._template,
                format=self._student.encoder.format,
            )
            for question in questions
        ]
        asked = [[question.prompt, question.answer, question.id] for question in read]
        encoder = self._student.encoder
        prompts = [encoder.format, encoder.system, encoder.arguments]
        settings = [repr(self._check), repr(self._sampling), self._num_samples, prompts]
        content = json.dumps([self._identity, settings, asked], default=repr)
        key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        return _Exam(key, taught.id, read)

    def _take(self, exams: Sequence[_Exam]) -> None:
        """Have the student take exams, and keep their scores."""
        asked: list[tuple[str, Question]] = []
        for exam in exams:
            if not all(self._fits(question) for question in exam.questions):
                self._scores.add([_row(exam, None, [])])
                continue
            for number, question in enumerate(exam.questions):
                for sample in range(self._num_samples):
                    id = f"exam/{exam.key}/{number}/{sample}"
                    seed = derive(exam.key, number, sample)
                    asked.append((exam.key, Question(id, question, seed)))
        if not asked:
            return
        answers = self._student.answers([question for _, question in asked], self._sampling)
        answered = [
            (question.task, [a]) for (_, question), a in zip(asked, answers, strict=True)
        ]
        marks: dict[str, list[float | None]] = {}
        for (key, _), [verdict] in zip(asked, self._scorer.score(answered), strict=True):
            marks.setdefault(key, []).append(verdict.value)
        rows = []
        for exam in exams:
            if exam.key not in marks:
                continue
            known = [mark for mark in marks[exam.key] if mark is not None]
            score = fmean(known) if known else None
            rows.append(_row(exam, score, marks[exam.key]))
        self._scores.add(rows)

    def _fits(self, question: Task) -> bool:
        return self._student.fits(self._student.encoder.encode(question))


def check_spec(check: str | dict[str, Any]) -> RewardSpec:
    """The reward that marks answers. Raises `RecipeError` where none is named."""
    params = {"use": check} if isinstance(check, str) else dict(check)
    use = params.pop("use", None)
    if not isinstance(use, str):
        raise RecipeError(
            f"check of student_exam names no reward: {check!r}; write for example {{use: exact}}"
        )
    return RewardSpec(use=use, params=params)


def _row(exam: _Exam, score: float | None, marks: Sequence[float | None]) -> dict[str, Any]:
    return {
        "key": exam.key,
        "score": score,
        "task": exam.taught,
        "questions": [question.id for question in exam.questions],
        "marks": list(marks),
    }


def _close(student: Student, scorer: Scorer) -> None:
    scorer.close()
    student.engine.close()
