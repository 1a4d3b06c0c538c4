"""Categories: which positions of a task set belong together, and drawing from each without
replacement.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from typing import Any

from rlcore.curriculum.epochs import check_size
from rlcore.errors import RecipeError, TaskError
from rlcore.plugin import did_you_mean
from rlcore.types import Task


def column(tasks: Sequence[Task], name: str) -> Sequence[Any]:
    """The category ("category") or a column of every task, [size]. Raises `RecipeError` if a task
    has no such column.

    A task set with a method `column(name)` is asked for it; of another, or where that gives None,
    every task is made once.
    """
    read = getattr(tasks, "column", None)
    values = read(name) if callable(read) else None
    if values is not None:
        return values
    return [value_of(task, name) for task in tasks]


def value_of(task: Task, name: str) -> Any:
    """The task's category or one of its columns. Raises `RecipeError` if it has no such column."""
    if name == "category":
        return task.category
    if name not in task.columns:
        raise RecipeError(
            f"it goes by the column {name!r}, which task {task.id} has not"
            + did_you_mean(name, ["category", *task.columns])
        )
    return task.columns[name]


class Categories:
    """Positions by category. Example: `Categories(tasks, by=["domain", "level"], seed=0).names[0]
    == "algebra/1"`.

    by: "category", a column, or several whose product makes the categories. Names are sorted;
    numbers sort as numbers. Memory: 12 bytes a task. Made once; `take` costs the same for any
    number of tasks, but for one shuffle a category and epoch.
    """

    def __init__(
        self, tasks: Sequence[Task], *, by: str | Sequence[str] = "category", seed: int
    ) -> None:
        if not len(tasks):
            raise TaskError("the task set is empty: a task sampler needs at least one task")
        self._seed = seed
        names = [by] if isinstance(by, str) else by
        columns = [column(tasks, name) for name in names]
        keys = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        distinct = sorted(set(keys), key=_order)
        number = {key: category for category, key in enumerate(distinct)}
        if len(columns) == 1:
            self.names = [str(key) for key in distinct]
        else:
            self.names = ["/".join(map(str, key)) for key in distinct]
        self.of = array("i", [number[key] for key in keys])
        """Category of each position, [size]."""
        self._members = [array("q") for _ in distinct]
        for position, category in enumerate(self.of):
            self._members[category].append(position)
        self._epoch = [0] * len(distinct)
        self._position = [0] * len(distinct)
        self._walks: dict[int, tuple[int, list[int]]] = {}  # category -> epoch and order

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> list[int]:
        """Tasks of each category."""
        return [len(members) for members in self._members]

    def take(self, category: int) -> int:
        """A position of this category: each once, in random order, before any comes again."""
        if self._position[category] == len(self._members[category]):
            self._epoch[category] += 1
            self._position[category] = 0
        epoch, order = self._walks.get(category, (-1, []))
        if epoch != self._epoch[category]:
            order = list(self._members[category])
            random.Random(f"{self._seed}/{category}/{self._epoch[category]}").shuffle(order)
            self._walks[category] = (self._epoch[category], order)
        self._position[category] += 1
        return order[self._position[category] - 1]

    def number(self, name: str, owner: str) -> int:
        """The category called `name`. Raises `RecipeError`."""
        if name not in self.names:
            raise RecipeError(
                f"{owner} names the category {name!r}{did_you_mean(name, self.names)}"
            )
        return self.names.index(name)

    def state_dict(self) -> dict[str, Any]:
        """Seed, and epoch and position of each category: the orders follow from them."""
        return {
            "size": len(self.of),
            "seed": self._seed,
            "epoch": list(self._epoch),
            "position": list(self._position),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises `RunError` if the task set has another size or other categories now.
        """
        check_size(state["size"], len(self.of))
        if len(state["epoch"]) != len(self):
            check_size(len(state["epoch"]), len(self))
        self._seed = state["seed"]
        self._epoch = list(state["epoch"])
        self._position = list(state["position"])
        self._walks = {}


def _order(key: Any) -> tuple[Any, ...]:
    """Sorts numbers before text, and tuples by their parts."""
    parts = key if isinstance(key, tuple) else (key,)
    return tuple(
        (0, part, "") if isinstance(part, int | float) else (1, 0, str(part)) for part in parts
    )
