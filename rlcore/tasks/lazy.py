"""A task set whose tasks are made when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from rlcore.types import Task


class LazyTasks(Sequence[Task]):
    """`size` tasks, the i-th made by `make(i)`; making it twice gives equal tasks."""

    def __init__(
        self,
        size: int,
        make: Callable[[int], Task],
        *,
        column: Callable[[str], Sequence[Any] | None] | None = None,
    ) -> None:
        self._size, self._make, self._column = size, make, column

    def column(self, name: str) -> Sequence[Any] | None:
        """The category ("category") or a column of every task, [size], without making them; None where that is not possible."""
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
            raise IndexError(f"there is no task {index}: the set has {self._size}")
        return self._make(index % self._size)
