"""Several task sets of a recipe as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal

from rlcore.errors import TaskError
from rlcore.plugin import did_you_mean
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

SET = "set"
"""The column that names the set a task comes from."""


def joined(
    of: Sequence[str],
    *,
    sets: Mapping[str, Sequence[Task]],
    category: Literal["set", "own"] = "set",
) -> Sequence[Task]:
    """The tasks of several sets of the recipe, one set after the other.

    of: names of the sets. category: of a task, the name of its set, by which a curriculum can mix them,
    or its own. The column `set` has the name in either case, for rewards that are of one set only
    (`where: {set: words}`). Raises `TaskError` for an unknown set, one named twice, or none.
    """
    names = list(of)
    if not names or len(set(names)) < len(names):
        raise TaskError(f"joined needs the names of different task sets, not of: {names}")
    unknown = [name for name in names if name not in sets]
    if unknown:
        raise TaskError(
            f"joined names {unknown[0]!r}, which is no task set of the recipe"
            f"{did_you_mean(unknown[0], list(sets))}"
        )
    parts = [sets[name] for name in names]
    for name, part in zip(names, parts, strict=True):
        if getattr(part, "deferred", False):
            raise TaskError(
                f"joined names {name!r}, whose tasks are not there before a stage has sampled them: give such a set a stage of its own"
            )
    ends = list(accumulate(map(len, parts)))

    def make(position: int) -> Task:
        number = bisect_right(ends, position)
        before = ends[number - 1] if number else 0
        task = parts[number][position - before]
        return replace(
            task,
            id=f"{names[number]}/{task.id}",
            category=names[number] if category == SET else task.category,
            columns={**task.columns, SET: names[number]},
        )

    def column(name: str) -> Sequence[Any] | None:
        of_set = name == SET or (name == "category" and category == SET)
        if of_set:
            return [part for part, tasks in zip(names, parts, strict=True) for _ in tasks]
        columns = [
            tasks.column(name) if isinstance(tasks, LazyTasks) else None for tasks in parts
        ]
        if any(values is None for values in columns):
            return None
        return [value for values in columns for value in values]

    return LazyTasks(ends[-1], make, column=column)
