"""The teachers of a stage: models that score its samples between credit and updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rlcore.errors import ModelError, RunError, TaskError
from rlcore.recipe.build_learner import build_engine
from rlcore.recipe.teacher_section import POLICY, TeacherSection, column_of, teacher_task
from rlcore.run.frozen import frozen_model
from rlcore.tokenizer import different_tokens
from rlcore.types import Group, Sample, TeacherScores

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from rlcore.learner.policy import Policy
    from rlcore.learner.teacher import Teacher
    from rlcore.rollout.engine import Engine
    from rlcore.run.session import Run
    from rlcore.stages.base import Stage


class _Facts(NamedTuple):
    """Sums over the trained tokens of one sample."""

    own: float
    """Log-probabilities that the engine recorded."""
    teacher: float
    top_mass: float
    """Probability of the teacher's top tokens."""
    tokens: int


class Teachers:
    """Gives samples the scores of their task's teacher. Without teachers it changes nothing."""

    def __init__(
        self, run: Run, section: TeacherSection | None, teachers: Mapping[str, Teacher]
    ) -> None:
        """teachers: by the value of the section's column; "" where there is one."""
        self._run = run
        self._section = section
        self._teachers = teachers
        self._facts: list[_Facts] = []

    def score(
        self, groups: Sequence[Group], samples: Sequence[Sequence[Sample]]
    ) -> list[list[Sample]]:
        """samples: of each group. Those of a stream that no policy wrote (demonstrations) are scored too."""
        scored = [list(of_group) for of_group in samples]
        if self._section is None:
            return scored
        places: dict[str, list[tuple[int, int]]] = {name: [] for name in self._teachers}
        for number, group in enumerate(groups):
            name = self._teacher_of(group)
            places[name] += [(number, i) for i in range(len(scored[number]))]
        self._facts = []
        for name, teacher in self._teachers.items():
            read = [self._as_read(groups[n], scored[n][i]) for n, i in places[name]]
            for (n, i), scores in zip(places[name], teacher.score(read), strict=True):
                scored[n][i] = replace(scored[n][i], teacher=scores)
                self._facts += _facts(scored[n][i], scores)
        return scored

    def metrics(self) -> dict[str, float]:
        """Of the policy's own tokens in the last samples, over all ranks. Collective."""
        if self._section is None:
            return {}
        facts = self._run.gather(self._facts)
        tokens = sum(fact.tokens for fact in facts)
        if not tokens:
            return {}
        of_teacher = sum(fact.teacher for fact in facts) / tokens
        if self._section.base is not None:
            return {"teacher/implicit_reward": of_teacher}
        own = sum(fact.own for fact in facts) / tokens
        metrics = {"teacher/kl": own - of_teacher}
        if self._section.top_k:
            metrics["teacher/top_mass"] = sum(fact.top_mass for fact in facts) / tokens
        return metrics

    def _teacher_of(self, group: Group) -> str:
        if not self._section.several:
            return ""
        name = str(column_of(group.task, self._section.by))
        if name not in self._teachers:
            known = ", ".join(self._teachers)
            raise TaskError(
                f"task {group.task.id!r} has {name!r} in {self._section.by!r}, and teacher.model has no such teacher "
                f"(it has {known})"
            )
        return name

    def _as_read(self, group: Group, sample: Sample) -> Sample:
        """The sample as the teacher reads it: behind its own prompt, where it has one."""
        from rlcore.learner.teacher import with_prompt

        if self._section.prompt is None:
            return sample
        own_prompt = group.rollouts[0].turns[0].token_ids
        if sample.token_ids[: len(own_prompt)] != own_prompt:
            raise RunError(
                f"sample {sample.id!r} does not begin with its task's prompt, so teacher.prompt cannot take its place"
            )
        task = teacher_task(group.task, self._section.prompt)
        return with_prompt(sample, len(own_prompt), self._run.encoder.encode(task))


def _facts(sample: Sample, scores: TeacherScores) -> list[_Facts]:
    """Of a sample that the policy wrote; none of others."""
    if sample.stream != "policy" or sample.logprobs is None:
        return []
    recorded = [value for value, on in zip(sample.logprobs, sample.mask, strict=True) if on]
    mass = 0.0 if scores.top_logprobs is None else float(scores.top_logprobs.exp().sum())
    return [_Facts(sum(recorded), sum(scores.logprobs), mass, len(recorded))]


@contextmanager
def build_teachers(run: Run, stage: Stage) -> Iterator[Teachers]:
    """The stage's teachers, ready to score; their engines are closed with the context. Collective."""
    section = getattr(stage, "teacher", None)
    engines: list[Engine] = []
    try:
        if section is None:
            yield Teachers(run, None, {})
            return
        teachers = {
            name: _build(run, stage, section, path, engines)
            for name, path in section.models.items()
        }
        yield Teachers(run, section, teachers)
    finally:
        for engine in engines:
            engine.close()


def _build(
    run: Run, stage: Stage, section: TeacherSection, path: str, engines: list[Engine]
) -> Teacher:
    from rlcore.learner.teacher import PolicyTeacher

    vocabulary = len(run.policy.model.get_output_embeddings().weight)
    folder = _folder(run, path)
    if section.engine is not None:
        engines.append(_engine(run, section, folder))
        return EngineTeacher(engines[-1], top_k=section.top_k, vocabulary=vocabulary)

    def of(folder: str) -> PolicyTeacher:
        return PolicyTeacher(
            _load(run, folder),
            top_k=section.top_k,
            vocabulary=vocabulary,
            micro_batch_tokens=stage.optim.micro_batch_tokens,
        )

    if section.base is None:
        return of(folder)
    return ContrastTeacher(of(folder), of(_folder(run, section.base)))


def _folder(run: Run, path: str) -> str:
    from rlcore.run.reference import starting_model

    return str(starting_model(run, "_teacher")) if path == POLICY else frozen_model(run, path)


def _load(run: Run, folder: str) -> Policy:
    """A whole model on each rank, also where the policy is sharded. Raises `ModelError` for another tokenizer."""
    from rlcore.learner.policy import load_policy

    teacher = load_policy(
        path=folder,
        dtype=run.recipe.model.dtype,
        device=run.accelerator.device,
        max_length=run.recipe.engine.max_length,
    )
    require_same_tokenizer(folder, teacher.tokenizer, run.policy.tokenizer)
    return teacher


def _engine(run: Run, section: TeacherSection, folder: str) -> Engine:
    from rlcore.tokenizer import load_tokenizer

    require_same_tokenizer(folder, load_tokenizer(folder), run.policy.tokenizer)
    return build_engine(
        section.engine,
        Path(folder),
        dtype=run.recipe.model.dtype,
        device=str(run.accelerator.device),
    )


def require_same_tokenizer(
    folder: str, tokenizer: PreTrainedTokenizerBase, own: PreTrainedTokenizerBase
) -> None:
    """A teacher scores the policy's token ids, so they must mean the same to it."""
    different = different_tokens(own, tokenizer)
    if different:
        raise ModelError(
            f"the teacher {folder} has another tokenizer than the policy ({different}): use a teacher with the "
            "policy's tokenizer, or imitate its texts with a stage sft"
        )


class EngineTeacher:
    """A model behind an engine's `score`: vLLM in this process, servers, or transformers."""

    def __init__(self, engine: Engine, *, top_k: int, vocabulary: int) -> None:
        self._engine = engine
        self._top_k = min(top_k, vocabulary)

    def score(self, samples: Sequence[Sample]) -> list[TeacherScores]:
        """Engines score at temperature 1; the recipe's check sees to it that completions are sampled there."""
        import torch

        answers = self._engine.score([sample.token_ids for sample in samples], self._top_k)
        scores = []
        for sample, answer in zip(samples, answers, strict=True):
            # entry i is of token i + 1
            trained = [i - 1 for i, is_trained in enumerate(sample.mask) if is_trained]
            logprobs = [answer.logprobs[i] for i in trained]
            if not self._top_k:
                scores.append(TeacherScores(logprobs=logprobs))
                continue
            best = [
                sorted(answer.top[i].items(), key=lambda pair: -pair[1])[: self._top_k]
                for i in trained
            ]
            pairs = torch.tensor(best, dtype=torch.float64)
            scores.append(
                TeacherScores(
                    logprobs=logprobs,
                    top_ids=pairs[..., 0].long(),
                    top_logprobs=pairs[..., 1],
                )
            )
        return scores


class ContrastTeacher:
    """log pi_T - log pi_base of each token: the implicit reward of emulated fine-tuning."""

    def __init__(self, teacher: Teacher, base: Teacher) -> None:
        self._teacher = teacher
        self._base = base

    def score(self, samples: Sequence[Sample]) -> list[TeacherScores]:
        differences = []
        pairs = zip(self._teacher.score(samples), self._base.score(samples), strict=True)
        for tuned, base in pairs:
            difference = [
                after - before
                for after, before in zip(tuned.logprobs, base.logprobs, strict=True)
            ]
            differences.append(TeacherScores(logprobs=difference))
        return differences
