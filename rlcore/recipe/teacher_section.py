"""The keys of a stage's teacher: which model scores the policy's tokens, and what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from string import Formatter
from typing import Annotated, Any

from pydantic import Field, model_validator

from rlcore.errors import RecipeError
from rlcore.recipe.model_sections import NO_SLEEP, EngineSection
from rlcore.recipe.section import Section
from rlcore.types import Task

POLICY = "policy"
"""In place of a path: the model that the stage began with."""


class TeacherSection(Section):
    model: str | dict[str, str] = Field(
        description="what scores the policy's tokens: hub name, folder or run folder of a model with the policy's tokenizer; "
        "policy: the model the stage began with; or several, by the value of a column: {math: path, code: path}"
    )
    by: str = Field(
        "category", description="of several teachers: column that names a task's teacher"
    )
    base: str | None = Field(
        None,
        description="model that the teacher was tuned from, or policy: its log-probabilities are subtracted "
        "(divergence implicit; emulated fine-tuning)",
    )
    prompt: str | None = Field(
        None,
        description="what the teacher reads in place of the prompt, with {prompt}, {answer} and columns of the task: "
        "'{prompt} Hint: {answer}'",
    )
    top_k: Annotated[int, Field(ge=0, le=10**6)] = Field(
        0,
        description="most probable tokens of the teacher that a divergence sums over, at most the vocabulary; "
        "0: the sampled token alone",
    )
    engine: EngineSection | None = Field(
        None,
        description="what runs the teacher, as the recipe's engine: vllm_server, {use: vllm_local, ...}; "
        "null: the learner's own forward pass",
    )

    @property
    def several(self) -> bool:
        return isinstance(self.model, Mapping)

    @property
    def models(self) -> dict[str, str]:
        """Teachers by the value of the column; "" where there is one."""
        return dict(self.model) if isinstance(self.model, Mapping) else {"": self.model}

    @property
    def paths(self) -> list[str]:
        """Models that are named by a path or hub name."""
        named = [*self.models.values(), self.base]
        return [path for path in named if path not in (None, POLICY)]

    @model_validator(mode="after")
    def _effective(self) -> TeacherSection:
        if not self.models:
            raise ValueError("model names no teacher")
        if not self.several and self.by != "category":
            raise ValueError("by has no effect with one teacher: leave it out")
        if self.base is not None and self.top_k:
            raise ValueError(
                "top_k has no effect with base: the implicit reward is that of the sampled token"
            )
        if self.base is not None and self.engine is not None:
            raise ValueError("a teacher with base is scored by the learner: leave out engine")
        if self.engine is not None and self.engine.differences:
            raise ValueError(
                "a teacher's engine scores its own model: leave out engine.differences, or take base and divergence implicit"
            )
        if self.engine is not None and self.engine.sleeps:
            raise ValueError(NO_SLEEP)
        if self.prompt is not None and "prompt" not in fields_of(self.prompt):
            raise ValueError(
                f"prompt {self.prompt!r} has no {{prompt}}: the teacher would not see the task"
            )
        return self


def fields_of(template: str) -> list[str]:
    """Names in braces. Raises `ValueError` where the braces do not match."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise ValueError(f"prompt {template!r}: {error} (write {{{{ for a brace)") from None
    return [name for _, name, _, _ in parsed if name is not None]


def column_of(task: Task, name: str) -> Any:
    """The task's column, category or answer of that name. Raises `RecipeError` if it has none."""
    if name in task.columns:
        return task.columns[name]
    if name in ("category", "answer") and getattr(task, name) is not None:
        return getattr(task, name)
    columns = ", ".join(["category", "answer", *task.columns])
    raise RecipeError(f"task {task.id!r} has no column {name!r}; it has {columns}")


def teacher_task(task: Task, template: str) -> Task:
    """The task with the prompt that the teacher reads; of chat messages the last one is filled in."""
    values = {name: column_of(task, name) for name in fields_of(template) if name != "prompt"}
    if isinstance(task.prompt, str):
        return replace(task, prompt=template.format(prompt=task.prompt, **values))
    *before, last = task.prompt
    text = template.format(prompt=last["content"], **values)
    return replace(task, prompt=[*before, {**last, "content": text}])
