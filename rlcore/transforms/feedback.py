"""LeTI (arXiv 2305.10314): a completion that the policy wrote, together with what its reward said of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic import PositiveInt

from rlcore.errors import RecipeError
from rlcore.transforms.transform import Draw, insert
from rlcore.types import Sample


def feedback(
    sample: Sample,
    draw: Draw,
    *,
    good: str = "<|good|>",
    bad: str = "<|bad|>",
    begin: str = "<|feedback|>",
    end: str = "<|/feedback|>",
    place: Literal["before", "after"] = "before",
    coarse: bool = False,
    max_tokens: PositiveInt = 256,
) -> Sample:
    """In front of everything stands `good`, or `bad` and the feedback between `begin` and `end`; the completion is trained.

    All four are single tokens (`model.control_tokens`). Where the prompt has `good` or `bad`, with which it was sampled, the
    new one stands in its place. place: `after` puts the feedback behind the completion, and trains it. coarse: `good`
    and `bad` alone. max_tokens: of the feedback, which is cut there.
    """
    if len({good, bad, begin, end}) < 4:
        raise RecipeError(
            "transform feedback: good, bad, begin and end are four different tokens"
        )
    good_id, bad_id = draw.token(good), draw.token(bad)
    passed = bool(draw.column("passed"))
    said: list[int] = []
    text = "" if passed or coarse else str(draw.column("feedback"))
    if text:
        said = [draw.token(begin), *draw.ids(text)[:max_tokens], draw.token(end)]
    position, instead = int(sample.token_ids[0] == draw.tokenizer.bos_token_id), 0
    for index, token in enumerate(sample.token_ids[: draw.start]):
        if token in (good_id, bad_id):
            position, instead = index, 1
            break
    mark = [good_id if passed else bad_id]
    if place == "before":
        return insert(sample, position, mark + said, instead=instead)
    return _append(insert(sample, position, mark, instead=instead), said)


feedback.reads = lambda **parameters: ("passed", "feedback")  # type: ignore[attr-defined]


def _append(sample: Sample, ids: list[int]) -> Sample:
    """The sample with trained tokens at its end."""
    count = len(ids)
    longer = insert(sample, len(sample.token_ids), ids)
    return replace(
        longer,
        mask=[*sample.mask, *[True] * count],
        advantages=[*sample.advantages, *[1.0] * count],
    )
