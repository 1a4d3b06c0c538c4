"""Next-token training beside RL: the text of each task, without its RL tokens.

Reinforcement mid-training, arXiv 2509.24375.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlcore.errors import TaskError
from rlcore.types import Sample, Task

if TYPE_CHECKING:
    from rlcore.objective.term import Objective
    from rlcore.run.rollout_batch import RolloutBatch
    from rlcore.run.session import Run

STREAM = "text"
"""Stream that the objective's `next_token` term reads."""


def text_samples(run: Run, tasks: Iterable[Task]) -> list[Sample]:
    """One sample for each text of the tasks, in order.

    Every token is trained but the first and those of the column `spans`. Tasks with the same column
    `text` have one sample. Raises `TaskError` where a task has no text.
    """
    sample_of_text: dict[str, Sample] = {}
    for task in tasks:
        text = task.columns.get("text")
        if not isinstance(text, str) or not text:
            raise TaskError(
                f"task {task.id} has no column `text`, which next-token training needs: use corpus "
                "positions or spans"
            )
        if text in sample_of_text:
            continue
        encoded = run.policy.tokenizer(
            text,
            add_special_tokens=False,
            return_offsets_mapping=True,
        )
        sample_of_text[text] = text_sample(
            f"{task.id}/text",
            encoded["input_ids"][: run.max_length],
            encoded["offset_mapping"][: run.max_length],
            task.columns.get("spans") or [],
        )
    return list(sample_of_text.values())


def text_sample(
    id: str,
    ids: list[int],
    offsets: list[tuple[int, int]],
    spans: list[list[int]],
) -> Sample:
    """A sample that trains every token but the first and those that overlap one of `spans`.

    offsets and spans are [start, end] in characters.
    """
    mask = []
    for position, (token_start, token_end) in enumerate(offsets):
        overlaps = any(start < token_end and token_start < end for start, end in spans)
        mask.append(position > 0 and not overlaps)
    advantages = [float(is_trained) for is_trained in mask]
    return Sample(id=id, token_ids=ids, mask=mask, advantages=advantages, stream=STREAM)


def next_token_groups(
    run: Run, batch: RolloutBatch, objective: Objective
) -> list[tuple[tuple[int, int, str], list[Sample]]]:
    """(sort key, samples) of the texts of the batch's tasks, where the objective trains on next tokens too.

    Each text once over all ranks, on the rank that has the first of its tasks in the batch's order.
    """
    if STREAM not in objective.streams:
        return []
    rank = run.accelerator.process_index
    pairs = zip(batch.collected.draws, batch.groups, strict=True)
    tasks = sorted(
        ((draw.order, group.task) for draw, group in pairs), key=lambda pair: pair[0]
    )
    uses = [(order, rank, task.columns.get("text")) for order, task in tasks]
    first_rank: dict[str, int] = {}
    for _, user, text in sorted(run.gather(uses), key=lambda use: use[:2]):
        first_rank.setdefault(text, user)
    mine = [task for _, task in tasks if first_rank[task.columns.get("text")] == rank]
    return [((2, 0, text.id), [text]) for text in text_samples(run, mine)]
