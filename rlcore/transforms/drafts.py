"""Tokens that a model wrote itself, in the context of what it learns to write.

Batch-scheduled sampling and reference-answer-based correction. The drafts are a column of the
task set, for example completions of an earlier `sample` stage.
"""

from __future__ import annotations

from dataclasses import replace

from rlcore.errors import TaskError
from rlcore.transforms.transform import Draw, Share, insert
from rlcore.types import Sample


def own_tokens(
    sample: Sample,
    draw: Draw,
    *,
    rate: Share = 0.25,
    ramp: Share = 1.0,
    column: str = "draft",
) -> Sample:
    """BSS: each trained token of the completion is read as the draft's token at the same position, with probability `rate`.

    What is predicted stays. ramp: fraction of the steps over which the rate rises in a line from 0; 0: it does not rise.
    column: of the draft, a text. Behind its end nothing is swapped.
    """
    probability = draw.ramped(rate, ramp)
    if probability == 0:
        return sample
    draft = draw.ids(str(draw.column(column)))
    inputs = list(sample.context_ids)
    for position, token in enumerate(draft, start=draw.start):
        if position == len(inputs):
            break
        if sample.mask[position] and draw.rng.random() < probability:
            inputs[position] = token
    return replace(sample, input_ids=inputs)


def correction(
    sample: Sample,
    draw: Draw,
    *,
    column: str = "draft",
    between: str = "\n\nCorrected:\n",
) -> Sample:
    """RAC: the draft and then `between` are read before the completion, which alone is trained.

    column: of the draft, a text. between: says that the correction follows.
    """
    draft = str(draw.column(column))
    if not draft:
        raise TaskError(
            f"the draft of task {draw.task.id!r} is empty: there is nothing to correct"
        )
    return insert(sample, draw.start, draw.ids(draft + between))
