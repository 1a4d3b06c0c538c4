"""Pieces of real documents with the place each one comes from, for metadata conditioning."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from rlcore.errors import TaskError
from rlcore.recipe.build import here
from rlcore.types import Task

HELD_OUT_ONE_IN = 16
START = 16
"""Characters that a piece begins with, its prompt: the first thing that a model without metadata reads."""


def pieces(
    path: str | list[str],
    *,
    split: Literal["train", "heldout"],
    per_source: int,
    characters: int = 384,
    seed: int = 0,
) -> list[Task]:
    """At most `per_source` pieces of the documents of each source, in random order; the column `url` names the source.

    path: JSON Lines, gzipped or not, with the columns text and source ("owner/repository:path"); of a list, the first
    that exists. split: heldout is one document in 16 of a source, train the others. characters: of a piece, all ASCII,
    so that every position is as many bytes from the start in all of them. Raises `TaskError`.
    """
    by_source: dict[str, list[Task]] = {}
    for id, source, text in _documents(here(path), split):
        tasks = by_source.setdefault(source, [])
        for start in range(0, len(text) - characters + 1, characters):
            piece = text[start : start + characters]
            if piece.isascii():
                tasks.append(_task(f"{id}/{start}", source, piece))
    chosen = []
    for source, tasks in by_source.items():
        random.Random(f"{seed}/{source}").shuffle(tasks)
        chosen += tasks[:per_source]
    if not chosen:
        raise TaskError(f"{here(path)} has no piece of {characters} ASCII characters")
    random.Random(f"{seed}/order").shuffle(chosen)
    return chosen


def _task(id: str, source: str, piece: str) -> Task:
    return Task(
        id=id,
        prompt=piece[:START],
        demonstration=piece[START:],
        category=source,
        columns={"url": f"github.com/{source}"},
    )


def _documents(path: str, split: str) -> Iterator[tuple[str, str, str]]:
    """Id, source and text of the documents of one split."""
    if not Path(path).is_file():
        raise TaskError(
            f"{path} does not exist: name a JSON Lines file with the columns text and source as path"
        )
    numbers: dict[str, int] = {}
    opened = gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8")
    with opened as lines:
        for line in lines:
            row = json.loads(line)
            source = row["source"].partition(":")[0]
            number = numbers.setdefault(source, 0)
            numbers[source] += 1
            if (number % HELD_OUT_ONE_IN == 0) == (split == "heldout"):
                yield f"{source}/{number}", source, row["text"]
