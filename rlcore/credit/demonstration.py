"""Samples of text that nobody sampled: imitate the answer."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.types import Sample


def demonstration_sample(
    id: str,
    prompt_ids: Sequence[int],
    answer_ids: Sequence[int],
    weight: float = 1.0,
    stream: str = "policy",
) -> Sample:
    """A sample whose answer tokens all have advantage 1 and no recorded log-probabilities.

    `prompt_ids` must not be empty (a beginning-of-sequence token will do): nothing predicts the first token of a sequence.
    """
    prompt, answer = list(prompt_ids), list(answer_ids)
    return Sample(
        id=id,
        token_ids=prompt + answer,
        mask=[False] * len(prompt) + [True] * len(answer),
        advantages=[0.0] * len(prompt) + [1.0] * len(answer),
        weight=weight,
        stream=stream,
    )
