"""Treasure Hunt (arXiv 2506.14702): what is known of an example, written into its prompt and before its completion.

<MARKER_LIST> <length_tokens> 199 </length_tokens> <language> French </language> </MARKER_LIST>
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlcore.errors import RecipeError, TaskError
from rlcore.transforms.transform import Draw, Share
from rlcore.types import Message, Task

LENGTH = "length_tokens"
_BLOCK = re.compile(r"<MARKER_LIST>(.*?)</MARKER_LIST>", re.DOTALL)
_MARKER = re.compile(r" <(\w+)> (.*?) </\1>", re.DOTALL)


def render(markers: Mapping[str, Any]) -> str:
    """The text of markers by name."""
    parts = [
        f" <{name}> {html.escape(str(value), quote=False)} </{name}>"
        for name, value in markers.items()
    ]
    return f"<MARKER_LIST>{''.join(parts)} </MARKER_LIST>"


def parse(text: str) -> dict[str, str]:
    """The markers of the first list in a text, by name; none where there is no list."""
    block = _BLOCK.search(text)
    if block is None:
        return {}
    return {name: html.unescape(value) for name, value in _MARKER.findall(block[1])}


def markers(
    task: Task,
    draw: Draw,
    *,
    columns: Sequence[str] = (),
    length: bool = True,
    drop_all: Share = 0.5,
    drop_each: Share = 0.5,
    separator: str = "\n",
) -> Task:
    """Markers at the end of the prompt, some of them dropped, and all of them at the beginning of the completion; both learn.

    columns: whose values are markers; one that is empty in a row is left out there. length: also `length_tokens`, tokens of
    the demonstration. drop_all: probability that the prompt has no list, drop_each: that a marker is not in its list,
    drawn in each step. separator: between a list and the text.
    """
    if not columns and not length:
        raise RecipeError(
            "transform markers: columns is empty and length is off, so there is none"
        )
    text = task.demonstration
    if not isinstance(text, str):
        raise TaskError(
            f"task {task.id!r}: transform markers begins a text with a list, and the demonstration is a list of messages"
        )
    known = {}
    for name in columns:
        if not re.fullmatch(r"\w+", name):
            raise RecipeError(
                f"transform markers: the column {name!r} cannot be a tag: rename it to letters, digits and _"
            )
        if task.columns.get(name) is not None:
            known[name] = task.columns[name]
    if length:
        known[LENGTH] = len(draw.ids(text))
    shown = {}
    is_shown = draw.rng.random() >= drop_all
    for name, value in known.items():
        if draw.rng.random() >= drop_each:
            shown[name] = value
    prompt = task.prompt
    if is_shown and shown:
        prompt = _with_end(prompt, separator + render(shown))
    return replace(task, prompt=prompt, demonstration=render(known) + separator + text)


markers.reads = lambda columns, **others: columns  # type: ignore[attr-defined]


def _with_end(prompt: str | list[Message], text: str) -> str | list[Message]:
    if isinstance(prompt, str):
        return prompt + text
    last = prompt[-1]
    return [*prompt[:-1], {**last, "content": last["content"] + text}]
