"""Which questions examine what a completion teaches, and how the completion stands before them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from string import Formatter
from typing import Literal

from rlcore.errors import RecipeError, TaskError
from rlcore.types import Message, Task

TEMPLATE = "{prompt}{completion}\n{question}"
"""What the student reads in the prompt format `plain`."""

_FIELDS = {"prompt", "completion", "question"}


class ExamQuestions:
    """Draws the exam of a taught question from a task set; the taught question is never in it.

    All completions of a question take the same exam, in every step and on every rank.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        *,
        name: str,
        by: str | None = "category",
        num_questions: int | None = 8,
        seed: int = 0,
    ) -> None:
        """tasks: of the task set `name`. by: column (`category` is one) in which exam and taught
        question agree; None: any question may be asked. num_questions: of an exam; None: all.
        """
        self._name = name
        self._by = by
        self._num_questions = num_questions
        self._seed = seed
        self._groups: dict[str, list[Task]] = defaultdict(list)
        for task in tasks:
            self._groups[self._value(task)].append(task)

    def of(self, taught: Task) -> list[Task]:
        """The exam of a taught question. Raises `TaskError` if no question is left for it.

        A question with the id or the prompt of the taught one is left out; spaces do not make
        prompts different.
        """
        value = self._value(taught)
        own = prompt_text(taught.prompt)
        questions = [
            question
            for question in self._groups.get(value, ())
            if question.id != taught.id and prompt_text(question.prompt) != own
        ]
        if not questions:
            same = f" with the same {self._by} ({value!r})" if self._by else ""
            raise TaskError(
                f"student_exam: the task set {self._name!r} has no question{same} for task "
                f"{taught.id!r} beside itself: add some, or set by to a column that they share, or to null"
            )
        if self._num_questions is None or self._num_questions >= len(questions):
            return questions
        draw = random.Random(f"{self._seed}/{taught.id}")
        return draw.sample(questions, self._num_questions)

    def _value(self, task: Task) -> str:
        if self._by is None:
            return ""
        if self._by == "category":
            return task.category
        if self._by not in task.columns:
            raise TaskError(
                f"student_exam compares the column {self._by!r}, which task {task.id!r} does not have: "
                "set by to a column that exam and taught questions have, or to null"
            )
        return str(task.columns[self._by])


def prompt_text(prompt: str | Sequence[Message]) -> str:
    """A prompt as one text with single spaces: two prompts that are the same question are equal.

    >>> prompt_text(" 2 +\\n2?"), prompt_text([{"role": "user", "content": "2 + 2?"}])
    ('2 + 2?', '2 + 2?')
    """
    return " ".join(_text(prompt).split())


def check_template(template: str) -> None:
    """Raise `RecipeError` unless completion and question stand in the template."""
    fields = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    unknown = sorted(fields - _FIELDS)
    if unknown:
        raise RecipeError(
            f"the template of student_exam has {{{unknown[0]}}}: its fields are "
            "{prompt}, {completion} and {question}"
        )
    for field in ("completion", "question"):
        if field not in fields:
            raise RecipeError(
                f"the template of student_exam has no {{{field}}}, so that nothing would be examined"
            )


def with_example(
    question: Task,
    taught: Task,
    completion: str,
    *,
    template: str | None,
    format: Literal["plain", "chat"],
) -> Task:
    """The question as the student reads it: behind the taught prompt and a completion of it.

    Without a template the example is a turn of its own in the format chat, and `TEMPLATE` in the
    format plain.
    """
    if template is None and format == "chat":
        asked = [m for m in _messages(question.prompt) if m["role"] != "system"]
        example = {"role": "assistant", "content": completion}
        return replace(question, prompt=[*_messages(taught.prompt), example, *asked])
    text = (template or TEMPLATE).format(
        prompt=_text(taught.prompt), completion=completion, question=_text(question.prompt)
    )
    return replace(question, prompt=text)


def _messages(prompt: str | list[Message]) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def _text(prompt: str | Sequence[Message]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content", "")) for message in prompt)
