"""What a teacher says of the samples of a micro-batch, as vectors over their trained tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlcore.errors import LearnerError
from rlcore.objective.term import Objective
from rlcore.types import Sample


def teacher_columns(
    samples: Sequence[tuple[Sample, Sequence[int]]],
) -> dict[str, Tensor]:
    """`teacher` [N], `top_ids` and `teacher_top` [N, K] of `MicroBatch`; those that no sample has are left out.

    samples: with the positions of their trained tokens. Samples without scores have zeros, which no
    term of their stream reads (`require_scores`). Raises `LearnerError` where K differs.
    """
    if all(sample.teacher is None for sample, _ in samples):
        return {}
    logprobs: list[float] = []
    for sample, positions in samples:
        logprobs += sample.teacher.logprobs if sample.teacher else [0.0] * len(positions)
    columns = {"teacher": torch.tensor(logprobs, dtype=torch.float64)}
    widths = {
        sample.teacher.top_ids.shape[1]
        for sample, _ in samples
        if sample.teacher is not None and sample.teacher.top_ids is not None
    }
    if not widths:
        return columns
    if len(widths) > 1:
        raise LearnerError(
            f"samples of one update hold {sorted(widths)} tokens of their teachers: give all teachers one top_k"
        )
    [width] = widths
    ids = []
    top = []
    for sample, positions in samples:
        scores = sample.teacher
        if scores is None or scores.top_ids is None:
            ids.append(torch.zeros(len(positions), width, dtype=torch.int64))
            top.append(torch.zeros(len(positions), width, dtype=torch.float64))
        else:
            ids.append(scores.top_ids)
            top.append(scores.top_logprobs.double())
    return columns | {"top_ids": torch.cat(ids), "teacher_top": torch.cat(top)}


def reads_of_streams(objective: Objective) -> dict[str, frozenset[str]]:
    """What the terms of each stream read (`Term.reads`)."""
    reads: dict[str, frozenset[str]] = {}
    for term in objective.terms:
        reads[term.stream] = reads.get(term.stream, frozenset()) | term.reads
    return reads


def require_scores(samples: Sequence[Sample], reads_of: dict[str, frozenset[str]]) -> None:
    """Raise `LearnerError` where a term reads a teacher's scores that a sample of its stream lacks.

    reads_of: of `reads_of_streams`.
    """
    for sample in samples:
        read = reads_of.get(sample.stream, frozenset())
        lacks = sample.teacher is None and "teacher" in read
        lacks_top = "teacher_top" in read and (
            sample.teacher is None or sample.teacher.top_ids is None
        )
        if lacks or lacks_top:
            what = "a teacher's most probable tokens" if lacks_top else "a teacher's scores"
            raise LearnerError(
                f"sample {sample.id!r} of stream {sample.stream!r} has not {what}, which the objective reads: "
                "set teacher in the stage, with top_k for a divergence other than reward and implicit"
            )
