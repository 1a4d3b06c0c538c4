"""A task set whose tasks are made on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from rlcore.errors import TaskError, brief
from rlcore.types import Task

MOST_NUMBERS = 2_000_000
"""In all tasks of a set that is made on the spot."""
LOOKED_AT = 200
"""Tasks of a set that a check looks at where all would take too long."""


def check_size(owner: str, size: int, numbers: int = 1) -> None:
    """Raise `TaskError` where `size` tasks with up to so many numbers each take too long to make.

    Every run, and some task samplers, look at each task at the start.
    """
    most = MOST_NUMBERS // numbers
    if size > most:
        parts = f" with {numbers} numbers each" if numbers > 1 else ""
        raise TaskError(
            f"{owner} makes up to {most:,} tasks{parts}, not size={brief(size)}: lower size"
        )


class LazyTasks(Sequence[Task]):
    """`size` tasks, the i-th made by `make(i)`; making it twice gives equal tasks."""

    def __init__(
        self,
        size: int,
        make: Callable[[int], Task],
        *,
        column: Callable[[str], Sequence[Any] | None] | None = None,
        note: str = "",
    ) -> None:
        """note: what a user should know of the set before a run, in one sentence."""
        self.note = note
        self._size = size
        self._make = make
        self._column = column

    def column(self, name: str) -> Sequence[Any] | None:
        """A column of every task, or its category ("category"): [size], without making the tasks.

        None if that is not possible.
        """
        return self._column(name) if self._column else None

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> Task: ...
    @overload
    def __getitem__(self, index: slice) -> list[Task]: ...
    def __getitem__(self, index: int | slice) -> Task | list[Task]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(self._size))]
        if not -self._size <= index < self._size:
            raise IndexError(f"task {index} does not exist: the set has {self._size} tasks")
        return self._make(index % self._size)
