"""Completions as tables of the trackers: tensorboard (markdown), wandb and trackio (tables)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("task", "prompt", "text", "answer", "value", "status", "finish", "reason")
"""Of a row, as in the files of rollouts."""
MAX_ROWS = 16
MAX_CHARACTERS = 2000
"""Of a cell."""


def log_table(
    trackers: Sequence[Any], name: str, rows: Sequence[Mapping[str, Any]], step: int
) -> None:
    """Log the first rows under a name. trackers: those of accelerate; one that knows no tables gets none."""
    data = [[_cell(row.get(column)) for column in COLUMNS] for row in rows[:MAX_ROWS]]
    for tracker in trackers:
        if tracker.name == "tensorboard":
            tracker.writer.add_text(name, _markdown(data), step)
        elif tracker.name == "trackio":
            import pandas
            import trackio

            frame = pandas.DataFrame(data, columns=list(COLUMNS))
            tracker.log({name: trackio.Table(dataframe=frame)}, step=step)
        elif hasattr(tracker, "log_table"):  # wandb
            tracker.log_table(name, columns=list(COLUMNS), data=data, step=step)


def _cell(value: Any) -> str:
    if isinstance(value, list):  # messages
        value = "\n".join(f"{message['role']}: {message['content']}" for message in value)
    text = "" if value is None else str(value)
    return text if len(text) <= MAX_CHARACTERS else f"{text[: MAX_CHARACTERS - 1]}…"


def _markdown(data: Sequence[Sequence[str]]) -> str:
    """A table in which no text of a completion can end its cell or become markup."""
    head = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    return "\n".join(
        f"| {line} |" for line in [*head, *(" | ".join(map(_escaped, row)) for row in data)]
    )


def _escaped(text: str) -> str:
    for character in "\\`*_{}[]()#+-!|~":
        text = text.replace(character, f"\\{character}")
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text.replace("\r", " ").replace("\n", "<br>")
