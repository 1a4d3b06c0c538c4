"""Next-token training beside RL (reinforcement mid-training, arXiv 2509.24375): the text of each task but for its RL tokens."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlcore.errors import TaskError
from rlcore.types import Sample, Task

if TYPE_CHECKING:
    from rlcore.run.session import Run

STREAM = "text"
"""What the objective's `next_token` term reads."""


def text_samples(run: Run, tasks: Iterable[Task]) -> list[Sample]:
    """One sample for each text of the tasks, in order: every token trained but the first and those of the column `spans`.

    Tasks with the same column `text` share a sample. Raises `TaskError` where a task has no text.
    """
    found: dict[str, Sample] = {}
    for task in tasks:
        text = task.columns.get("text")
        if not isinstance(text, str) or not text:
            raise TaskError(
                f"next-token training needs a column `text`, which task {task.id} has not: use corpus positions or spans"
            )
        if text not in found:
            coded = run.policy.tokenizer(
                text, add_special_tokens=False, return_offsets_mapping=True
            )
            offsets = coded["offset_mapping"][: run.max_length]
            spans = task.columns.get("spans") or []
            found[text] = text_sample(
                f"{task.id}/text", coded["input_ids"][: run.max_length], offsets, spans
            )
    return list(found.values())


def text_sample(
    id: str, ids: list[int], offsets: list[tuple[int, int]], spans: list[list[int]]
) -> Sample:
    """A sample that trains every token but the first and those that overlap one of `spans` ([start, end] in characters)."""
    mask = [
        place > 0 and not any(a < end and start < b for a, b in spans)
        for place, (start, end) in enumerate(offsets)
    ]
    return Sample(
        id=id, token_ids=ids, mask=mask, advantages=[float(on) for on in mask], stream=STREAM
    )
