"""Teachers: frozen models that score the tokens of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from rlcore.errors import LearnerError
from rlcore.learner.pack import pack
from rlcore.learner.policy import Policy
from rlcore.types import Sample, TeacherScores


class Teacher(Protocol):
    """Scores the trained tokens of samples, in their order."""

    def score(self, samples: Sequence[Sample]) -> list[TeacherScores]: ...


class PolicyTeacher:
    """A model in this process, in the learner's own packed form and arithmetic."""

    def __init__(
        self, policy: Policy, *, top_k: int, vocabulary: int, micro_batch_tokens: int = 8192
    ) -> None:
        """vocabulary: of the student's head. A larger head of the teacher (padding) is cut to it in
        the most probable tokens; what it gives the others is left to the rest."""
        policy.module.requires_grad_(False)
        self._policy = policy
        size = len(policy.model.get_output_embeddings().weight)
        self._top_k = min(top_k, vocabulary, size)
        self._vocabulary = vocabulary
        self._read_k = min(size, self._top_k + max(0, size - vocabulary))
        self._max_tokens = micro_batch_tokens

    @torch.no_grad()
    def score(self, samples: Sequence[Sample]) -> list[TeacherScores]:
        """At each sample's own temperature. Raises `LearnerError` for a sequence that is too long."""
        longest = self._policy.max_length
        for sample in samples:
            if len(sample.token_ids) > longest:
                raise LearnerError(
                    f"the teacher reads at most {longest} tokens, and its text of {sample.id!r} has "
                    f"{len(sample.token_ids)}: shorten teacher.prompt, or lower sampling.max_tokens"
                )
        scores: list[TeacherScores | None] = [None] * len(samples)
        for batch in pack(samples, max_tokens=self._max_tokens, layout="packed"):
            batch = batch.to(self._policy.model.device, self._policy.dtype)
            logp, _, *top = self._policy.module(
                batch.token_ids,
                batch.positions,
                batch.lengths,
                batch.source,
                batch.target,
                batch.temperature,
                batch.parents,
                top_k=self._read_k if self._top_k else 0,
            )
            sizes = batch.row.bincount(minlength=len(batch.order)).tolist()
            top_parts = [(None, None)] * len(sizes)
            if top:
                ids, values = self._of_student(*top)
                top_parts = list(
                    zip(ids.cpu().split(sizes), values.cpu().split(sizes), strict=True)
                )
            for index, values, (ids, top_values) in zip(
                batch.order, logp.cpu().split(sizes), top_parts, strict=True
            ):
                scores[index] = TeacherScores(
                    logprobs=values.tolist(), top_ids=ids, top_logprobs=top_values
                )
        return [score or TeacherScores(logprobs=[]) for score in scores]

    def _of_student(self, ids: Tensor, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """The first top_k that the student's head has too, of each row."""
        if self._read_k == self._top_k:
            return ids, logprobs
        known = ids < self._vocabulary
        order = (~known).to(torch.int8).argsort(dim=1, stable=True)[:, : self._top_k]
        return ids.gather(1, order), logprobs.gather(1, order)


def with_prompt(sample: Sample, before: int, prompt_ids: Sequence[int]) -> Sample:
    """The sample behind another prompt: its first `before` tokens are replaced, all others stay."""
    moved = len(prompt_ids)
    return replace(
        sample,
        token_ids=[*prompt_ids, *sample.token_ids[before:]],
        mask=[False] * moved + sample.mask[before:],
        advantages=[0.0] * moved + sample.advantages[before:],
        logprobs=None,
        old_logprobs=None,
        support=None,
        teacher=None,
    )
