"""The maps of the grid world: what blocks the way, and the shortest way."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

Cell = tuple[int, int]
"""(column, row), from the upper left corner."""
MOVES: dict[str, Cell] = {"n": (0, -1), "e": (1, 0), "s": (0, 1), "w": (-1, 0)}
WALL, FREE = "#", "."


@dataclass(frozen=True)
class Where:
    """Where the player is, and whether they have the key."""

    cell: Cell
    has_key: bool


@dataclass(frozen=True)
class GridMap:
    """rows: one text a row, `#` for a wall. key: None where the goal stands open."""

    rows: tuple[str, ...]
    start: Cell
    goal: Cell
    key: Cell | None = None

    def is_wall(self, cell: Cell) -> bool:
        """Whether nobody can stand there; so is what lies outside."""
        column, row = cell
        inside = 0 <= row < len(self.rows) and 0 <= column < len(self.rows[0])
        return not inside or self.rows[row][column] == WALL

    @property
    def beginning(self) -> Where:
        return Where(self.start, self.key is None)

    def after(self, where: Where, move: str) -> Where:
        """Where a move leads; nowhere else if a wall, or the goal without its key, is in the way."""
        (column, row), (right, down) = where.cell, MOVES[move]
        cell = (column + right, row + down)
        if self.is_wall(cell) or (cell == self.goal and not where.has_key):
            return where
        return Where(cell, where.has_key or cell == self.key)

    def distance(self, where: Where) -> int | None:
        """Moves that are needed to the goal; None where there is no way."""
        return _distances(self).get(where)

    def best_moves(self, where: Where) -> list[str]:
        """The moves that begin a shortest way, in the order of `MOVES`."""
        left = self.distance(where)
        if not left:
            return []
        return [move for move in MOVES if self.distance(self.after(where, move)) == left - 1]

    def reachable(self) -> list[Where]:
        """Every place from which the goal can be reached, nearest first; without the goal itself."""
        return [where for where, distance in _distances(self).items() if distance]


@lru_cache(maxsize=4096)
def _distances(grid: GridMap) -> dict[Where, int]:
    """Moves to the goal from each place, by a search that begins at the goal."""
    before: dict[Where, list[Where]] = {}
    for where in _places(grid):
        for move in MOVES:
            before.setdefault(grid.after(where, move), []).append(where)
    end = Where(grid.goal, True)
    distances = {end: 0}
    queue = deque([end])
    while queue:
        where = queue.popleft()
        for earlier in before.get(where, ()):
            if earlier not in distances:
                distances[earlier] = distances[where] + 1
                queue.append(earlier)
    return distances


def _places(grid: GridMap) -> Iterator[Where]:
    for row, cells in enumerate(grid.rows):
        for column, content in enumerate(cells):
            if content == FREE:
                yield Where((column, row), True)
                if grid.key is not None and (column, row) not in (grid.key, grid.goal):
                    yield Where((column, row), False)


def draw_map(rng: random.Random, size: int, walls: float, *, with_key: bool) -> GridMap | None:
    """A square map; None if this draw has no way to the goal.

    walls: probability of a wall for each cell.
    """
    rows = []
    for _ in range(size):
        rows.append("".join(WALL if rng.random() < walls else FREE for _ in range(size)))
    free = []
    for row, cells in enumerate(rows):
        free += [(column, row) for column, content in enumerate(cells) if content == FREE]
    if len(free) < 3:
        return None
    start, goal, key = rng.sample(free, 3)
    grid = GridMap(tuple(rows), start, goal, key if with_key else None)
    return None if grid.distance(grid.beginning) is None else grid
