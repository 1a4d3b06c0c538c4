"""Text of other columns put in front of a document or behind it, or asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from string import Formatter

from rlcore.errors import RecipeError, TaskError
from rlcore.transforms.transform import Draw, Share, insert
from rlcore.types import Sample, Task


def metadata(
    sample: Sample,
    draw: Draw,
    *,
    text: str = "URL: {url}\n\n",
    cooldown: Share = 0.1,
) -> Sample:
    """MeCo (arXiv 2501.01956): what is known of a document is read before it, and not trained.

    text: its words, with {columns} of the task. cooldown: last fraction of the steps, without it; optimiser and schedule go on.
    It stands after a beginning-of-sequence token, and before everything else.
    """
    columns = _columns_of(text)
    if not columns:
        raise RecipeError(
            f"transform metadata: {text!r} names no column, so that all documents would begin alike; write for example "
            "'URL: {url}\\n\\n'"
        )
    if draw.step >= draw.steps - round(cooldown * draw.steps):
        return sample
    words = text.format_map({name: draw.column(name) for name in columns})
    first = sample.token_ids[0]
    behind_beginning = int(first == draw.tokenizer.bos_token_id)
    return insert(sample, behind_beginning, draw.ids(words))


def _columns_of(text: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(text) if name is not None]


metadata.reads = lambda text, **others: _columns_of(text)  # type: ignore[attr-defined]


def thought(
    task: Task,
    draw: Draw,
    *,
    column: str = "thought",
    separator: str = "\n\n",
) -> Task:
    """TPT (arXiv 2509.20186): the thought of a reader follows the document; both are trained.

    column: where it is. separator: text between the two.
    """
    document = task.demonstration
    if not isinstance(document, str):
        raise TaskError(
            f"task {task.id!r}: transform thought follows a text, and the demonstration is a list of messages"
        )
    return replace(task, demonstration=f"{document}{separator}{draw.column(column)}")


def signals(task: Task, draw: Draw, *, prompts: Mapping[str, str]) -> Task | None:
    """reStructured Pre-training (arXiv 2206.11147): a prompt about the document, whose answer is one of its columns.

    prompts: from a column to a prompt with the document as {text}, such as {title: "{text}\n\nTitle:"}. One is drawn in each
    step, of those whose answer the row has and does not give away: it occurs nowhere in the prompt, in any case of letters.
    """
    document = task.demonstration
    if not isinstance(document, str):
        raise TaskError(
            f"task {task.id!r}: transform signals asks about a text, and the demonstration is a list of messages"
        )
    pairs = []
    for column, words in prompts.items():
        if "{text}" not in words:
            raise RecipeError(f"transform signals: the prompt {words!r} has no {{text}}")
        prompt = words.replace("{text}", document)
        answer = str(task.columns.get(column) or "").strip()
        if answer and answer.casefold() not in prompt.casefold():
            pairs.append((prompt, answer))
    if not pairs:
        return None
    prompt, answer = draw.rng.choice(pairs)
    return replace(task, prompt=prompt, answer=answer, demonstration=answer)


signals.reads = lambda prompts, **others: prompts  # type: ignore[attr-defined]
