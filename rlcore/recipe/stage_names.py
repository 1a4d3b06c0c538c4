"""Stages by their names, in overrides and in messages."""

from __future__ import annotations

import re
from typing import Any

from rlcore.errors import RecipeError

_NUMBERED = re.compile(r"\bstages\.(\d+)\b")


def label_of(item: Any) -> str:
    """The name of a stage, or its kind without the file it is in; "" for anything else."""
    if not isinstance(item, dict):
        return ""
    return item.get("name") or str(item.get("kind", "")).rpartition(":")[2]


def by_name(sentence: str, raw: Any) -> str:
    """The sentence with `stages.rl` for `stages.2`, where one stage alone of the recipe `raw` has that name."""
    stages = raw.get("stages") if isinstance(raw, dict) else None
    labels = [str(label_of(item)) for item in stages] if isinstance(stages, list) else []

    def named(found: re.Match[str]) -> str:
        number = int(found[1])
        label = labels[number] if number < len(labels) else ""
        is_word = re.fullmatch(r"[\w-]+", label) is not None
        return f"stages.{label}" if is_word and labels.count(label) == 1 else found[0]

    return _NUMBERED.sub(named, sentence)


def position_of(items: list[Any], part: str, dotted: str, where: str) -> int:
    """Position of a list item named by number, or of a stage named by its name or kind."""
    if part.isdecimal() and len(part) < 10 and int(part) < len(items):
        return int(part)
    named = [i for i, item in enumerate(items) if label_of(item) == part]
    if len(named) == 1:
        return named[0]
    known = ", ".join(
        f"{i} ({label_of(item)})" if label_of(item) else str(i) for i, item in enumerate(items)
    )
    problem = "names no item" if not named else "names several items"
    raise RecipeError(
        f"{where}: {part!r} in {dotted!r} {problem} of the list; use one of {known}"
    )
