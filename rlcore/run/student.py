"""A student: another model that answers questions for the reward `student_exam`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.errors import RecipeError
from rlcore.recipe.build_learner import build_encoder, build_engine
from rlcore.recipe.model_sections import NO_SLEEP, EngineSection
from rlcore.recipe.teacher_section import POLICY
from rlcore.rollout.engine import generate
from rlcore.run.disk import remove
from rlcore.run.frozen import frozen_model, with_frozen_models
from rlcore.types import Request, Rollout, Sampling, Task

if TYPE_CHECKING:
    from rlcore.rollout.engine import Engine
    from rlcore.rollout.prompt import PromptEncoder
    from rlcore.run.session import Run
    from rlcore.stages.base import Stage


@dataclass(frozen=True)
class Question:
    """What is asked, and with which seed it is answered."""

    id: str
    task: Task
    seed: int


@dataclass(frozen=True)
class Student:
    """A model behind an engine of its own."""

    engine: Engine
    encoder: PromptEncoder
    max_length: int
    """Longest prompt and completion together, in tokens."""
    deadline_s: float

    def fits(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the student can read a prompt and write at least one token behind it."""
        return len(prompt_ids) < self.max_length

    def answers(self, questions: Sequence[Question], sampling: Sampling) -> list[Rollout]:
        """A completion of each question, in their order. The prompts must fit."""
        requests = []
        for question in questions:
            prompt_ids = self.encoder.encode(question.task)
            room = self.max_length - len(prompt_ids)
            requests.append(
                Request(
                    id=question.id,
                    prompt_ids=prompt_ids,
                    sampling=replace(sampling, max_tokens=min(sampling.max_tokens, room)),
                    seed=question.seed,
                )
            )
        completions = generate(self.engine, requests, self.deadline_s)
        rollouts = []
        for question, request, completion in zip(questions, requests, completions, strict=True):
            num_prompt = len(request.prompt_ids)
            num_written = len(completion.token_ids)
            rollouts.append(
                Rollout.from_tokens(
                    id=question.id,
                    task_id=question.task.id,
                    token_ids=[*request.prompt_ids, *completion.token_ids],
                    mask=[False] * num_prompt + [True] * num_written,
                    logprobs=[0.0] * num_prompt + list(completion.logprobs),
                    text=self.encoder.completion_text(request.prompt_ids, completion.token_ids),
                    finish=completion.finish,
                )
            )
        return rollouts


def load_student(
    run: Run, stage: Stage, student: str, engine: Mapping[str, Any] | str | None
) -> Student:
    """The student of a stage. Collective.

    student: hub name, folder or run folder; policy is the model that the stage began with.
    engine: as the recipe's section; None is transformers (`hf`) with the lengths of the recipe.
    """
    from rlcore.pretrained import load_config
    from rlcore.tokenizer import load_tokenizer

    section = with_frozen_models(run, _section(run, engine))
    folder, temporary = _folder(run, stage, student)
    config = load_config(folder).get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or section.max_length
    section = section.model_copy(
        update={"max_length": min(section.max_length, positions)},
    )
    student_engine = build_engine(
        section,
        Path(folder),
        dtype=run.recipe.model.dtype,
        device=str(run.accelerator.device),
    )
    encoder = build_encoder(run.recipe, load_tokenizer(folder))
    run.accelerator.wait_for_everyone()
    # servers that die are started again from it
    if temporary and run.accelerator.is_main_process and not student_engine.shared:
        remove(Path(folder), inside=run.folder.path)
    return Student(student_engine, encoder, section.max_length, section.deadline_s)


def _section(run: Run, engine: Mapping[str, Any] | str | None) -> EngineSection:
    own = run.recipe.engine
    if engine is None:
        return EngineSection(
            use="hf",
            max_length=own.max_length,
            max_sequences=own.max_sequences,
            deadline_s=own.deadline_s,
        )
    return student_section(engine)


def student_section(engine: Mapping[str, Any] | str) -> EngineSection:
    """The engine that a recipe names for the student. Raises `RecipeError`."""
    section = EngineSection.model_validate(
        {"use": engine} if isinstance(engine, str) else dict(engine)
    )
    if section.sleeps:
        raise RecipeError(f"the student's engine: {NO_SLEEP}")
    return section


def _folder(run: Run, stage: Stage, student: str) -> tuple[str, bool]:
    """Where the student's files are, and whether they are for its start alone."""
    if student != POLICY:
        return frozen_model(run, student), False
    if stage.trains:
        from rlcore.run.reference import starting_model

        return str(starting_model(run, "_student")), False
    path = run.folder.path / ".student"
    with run.folder.writing("the model that is the student"):
        run.policy.save(path)
    run.accelerator.wait_for_everyone()
    return str(path), True
