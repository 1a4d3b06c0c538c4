"""Masked Thought (arXiv 2403.02178): tokens of the reasoning are hidden from the model that learns to write them."""

from __future__ import annotations

from dataclasses import replace

from rlcore.errors import TaskError
from rlcore.transforms.transform import Draw, Share
from rlcore.types import Sample


def masked_thought(
    sample: Sample,
    draw: Draw,
    *,
    p: Share = 0.4,
    ramp: Share = 2 / 3,
    mask_token: str | None = None,
) -> Sample:
    """Each trained token of the completion is read as `mask_token` with probability p. What is predicted stays.

    p: final probability. ramp: fraction of the steps over which it rises in a line from 0.
    mask_token: a text of one token; default: the tokenizer's mask token, else its padding token.
    """
    probability = draw.ramped(p, ramp)
    if probability == 0:
        return sample
    hidden = _mask_id(draw, mask_token)
    inputs = list(sample.context_ids)
    for position in range(draw.start, len(inputs)):
        if sample.mask[position] and draw.rng.random() < probability:
            inputs[position] = hidden
    return replace(sample, input_ids=inputs)


def _mask_id(draw: Draw, text: str | None) -> int:
    if text is not None:
        return draw.token(text)
    tokenizer = draw.tokenizer
    for id in (tokenizer.mask_token_id, tokenizer.pad_token_id):
        if id is not None:
            return id
    raise TaskError(
        "masked_thought: this tokenizer has neither a mask token nor a padding token; set mask_token to a text of one token"
    )
