"""A grid world: walk to a goal, around walls of which only the next are in sight, and for a door fetch the key first.

    prompt "02g41.#..:"     at column 0, row 2; the goal at column 4, row 1; north free, east a wall, south and west free
    completion "n"          reply "01g41....:"

Kinds, from easy to hard: `open` has no walls, `walls` has some, `key` has a door as its goal, and a key ("02k33g41.#..:").
Reward 1 at the goal, which a way with detours earns too. In the form `words` the same is said in English, for chat models.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from rlcore.env.base import Observation
from rlcore.environments.grid_map import MOVES, Cell, GridMap, Where, draw_map
from rlcore.environments.play import Policy, demonstrated
from rlcore.environments.task_set import Split, check_share, task_set
from rlcore.errors import TaskError
from rlcore.types import Message, Task

Form = Literal["short", "words"]
Kind = Literal["open", "walls", "key"]
KINDS: tuple[Kind, ...] = ("open", "walls", "key")
WORDS = {"n": "north", "e": "east", "s": "south", "w": "west"}
GOAL = (
    "You walk on a grid. Columns are counted from the left and rows from the top, both from 0. "
    "Reach the {goal} in at most {budget} moves. In each turn, write one word: north, east, south or west.\n\n"
)


def seen_from(grid: GridMap, where: Where, form: Form) -> str:
    """What the policy is told about a place."""
    around = {}
    for move, (right, down) in MOVES.items():
        around[move] = grid.is_wall((where.cell[0] + right, where.cell[1] + down))
    if form == "short":
        key = "" if where.has_key or grid.key is None else f"k{_digits(grid.key)}"
        walls = "".join("#" if wall else "." for wall in around.values())
        return f"{_digits(where.cell)}{key}g{_digits(grid.goal)}{walls}:"
    parts = [f"You are at {_in_words(where.cell)}."]
    if grid.key is not None:
        key = "You have the key." if where.has_key else f"The key is at {_in_words(grid.key)}."
        parts.append(key)
    parts.append(f"The {_goal(grid)} is at {_in_words(grid.goal)}.")
    walls = ", ".join(WORDS[move] for move, wall in around.items() if wall)
    parts.append(f"Walls: {walls or 'none next to you'}.")
    return " ".join(parts)


def _digits(cell: Cell) -> str:
    return f"{cell[0]}{cell[1]}"


def _in_words(cell: Cell) -> str:
    return f"column {cell[0]}, row {cell[1]}"


def _goal(grid: GridMap) -> str:
    return "goal" if grid.key is None else "door"


def move_of(text: str, form: Form) -> str | None:
    """The move in a completion, or None.

    short: a letter, after a ">" if there is a thought before it. words: the one direction that is named.
    """
    if form == "short":
        move = text.rpartition(">")[2].strip()
        return move if move in MOVES else None
    named = re.findall(r"\b(?:north|east|south|west)\b", text.lower())
    return named[0][0] if len(set(named)) == 1 else None


class GridWorld:
    """The environment. Reward 1 for reaching the goal within `budget` completions, else 0.

    A completion without a move is used up and leaves the player where they are.
    """

    def __init__(self, turn_weight: float = 0.0) -> None:
        """turn_weight: part of the reward that is for single moves. Each move that begins a shortest way from where it
        starts earns `turn_weight / (moves of the shortest way)`; the goal earns `1 - turn_weight`.
        """
        self._turn_weight = turn_weight

    def reset(
        self,
        rows: Sequence[str],
        start: Cell,
        goal: Cell,
        key: Cell | None,
        budget: int,
        form: Form = "short",
    ) -> Observation:
        self._map = map_of({"rows": rows, "start": start, "goal": goal, "key": key})
        self._where = self._map.beginning
        self._shortest = self._map.distance(self._where) or 1
        self._left = budget
        self._form = form
        return Observation(state=self._state)

    def step(self, message: Message) -> Observation:
        self._left -= 1
        move = move_of(message["content"], self._form)
        reward = 0.0
        if move in self._map.best_moves(self._where):
            reward += self._turn_weight / self._shortest
        if move is not None:
            self._where = self._map.after(self._where, move)
        if self._where.cell == self._map.goal:
            return Observation(reward=reward + 1 - self._turn_weight, done=True)
        metrics = {"malformed_moves": float(move is None)}
        if not self._left:
            return Observation(reward=reward, done=True, metrics=metrics)
        reply = seen_from(self._map, self._where, self._form)
        return Observation(reply, reward=reward, state=self._state, metrics=metrics)

    @property
    def _state(self) -> str:
        return seen_from(self._map, self._where, "short")


def map_of(columns: Any) -> GridMap:
    """The map in the columns of a task."""
    start, goal = tuple(columns["start"]), tuple(columns["goal"])
    key = None if columns["key"] is None else tuple(columns["key"])
    return GridMap(tuple(columns["rows"]), start, goal, key)


class _Problem(NamedTuple):
    kind: Kind
    map: GridMap

    @property
    def key(self) -> str:
        return str(self.map)

    @property
    def category(self) -> str:
        size = len(self.map.rows)
        return f"{self.kind}-{size}x{size}"

    @property
    def level(self) -> int:
        return self.map.distance(self.map.beginning) or 0

    def columns(self, extra_moves: int, form: Form) -> dict[str, Any]:
        key = self.map.key
        return {
            "rows": list(self.map.rows),
            "start": list(self.map.start),
            "goal": list(self.map.goal),
            "key": None if key is None else list(key),
            "budget": self.level + extra_moves,
            "form": form,
        }


def grid_world(
    *,
    split: Split = "train",
    size: int = 10_000,
    seed: int = 0,
    kinds: Sequence[Kind] = ("walls",),
    sizes: Sequence[int] = (5,),
    walls: float = 0.2,
    extra_moves: int = 4,
    mistakes: float = 0.0,
    thoughts: bool = False,
    form: Form = "short",
) -> Sequence[Task]:
    """Maps of so many rows and columns (one of `kinds` and one of `sizes`, drawn evenly).

    Task i is a function of (seed, split, i) and the settings; maps are held out. walls: probability of a wall for each cell.
    extra_moves: on top of the shortest way. Demonstrations walk a shortest way, but with probability `mistakes` each move is
    drawn evenly from all four; thoughts: before each move they say how far it is to the goal or the key, "+3-1>e". The
    column `level` is the length of the shortest way. Raises `TaskError` for settings that give no such task.
    """
    draw = _checked_draw(kinds, sizes, walls, mistakes, form)
    if extra_moves < 0:
        raise TaskError(f"grid_world.extra_moves is {extra_moves}, but must be 0 or more")
    teacher = wandering(mistakes, thoughts=thoughts)

    def make(id: str, problem: _Problem, rng: random.Random) -> Task:
        columns = problem.columns(extra_moves, form)
        prompt = seen_from(problem.map, problem.map.beginning, form)
        if form == "words":
            prompt = GOAL.format(goal=_goal(problem.map), budget=columns["budget"]) + prompt
        task = Task(id=id, prompt=prompt, columns=columns)
        return demonstrated(GridWorld(), task, teacher, rng)

    return task_set("grid_world", draw, make, split=split, size=size, seed=seed)


def grid_moves(
    *,
    split: Split = "train",
    size: int = 10_000,
    seed: int = 0,
    kinds: Sequence[Kind] = ("walls",),
    sizes: Sequence[int] = (5,),
    walls: float = 0.2,
    mistakes: float = 0.0,
    thoughts: bool = False,
) -> Sequence[Task]:
    """Single moves on the maps of `grid_world`, without an environment: any place of a map, and as answer its best moves.

    The reward `exact` with `after: ">"` judges a move by itself, as opposed to the whole way. The demonstration is one
    completion, drawn as in `grid_world`.
    """
    draw = _checked_draw(kinds, sizes, walls, mistakes, "short")
    teacher = wandering(mistakes, thoughts=thoughts)

    def make(id: str, problem: _Problem, rng: random.Random) -> Task:
        where = rng.choice(problem.map.reachable())
        prompt = seen_from(problem.map, where, "short")
        # The same map for somebody who begins there.
        key = None if where.has_key else problem.map.key
        rest = problem._replace(map=replace(problem.map, start=where.cell, key=key))
        here = rest.columns(extra_moves=0, form="short")
        return Task(
            id=id,
            prompt=prompt,
            answer=problem.map.best_moves(where),
            demonstration=teacher(Task(id=id, prompt=prompt, columns=here), [], rng),
        )

    return task_set("grid_moves", draw, make, split=split, size=size, seed=seed)


def _checked_draw(
    kinds: Sequence[Kind], sizes: Sequence[int], walls: float, mistakes: float, form: Form
) -> Callable[[random.Random], _Problem]:
    """A function that draws a problem. Raises `TaskError` for bad settings."""
    check_share("grid_world", "mistakes", mistakes)
    if not kinds or not set(kinds) <= set(KINDS):
        raise TaskError(
            f"grid_world.kinds must be some of {', '.join(KINDS)}, got {tuple(kinds)}"
        )
    if not sizes or not 2 <= min(sizes) <= max(sizes) <= 10:
        raise TaskError(f"grid_world.sizes must be from 2 to 10, got {tuple(sizes)}")
    if not 0 <= walls <= 0.5:
        raise TaskError(f"grid_world.walls is {walls}, but must be from 0 to 0.5")
    if form not in ("short", "words"):
        raise TaskError(f"grid_world has no form {form!r}: choose 'short' or 'words'")

    def draw(rng: random.Random) -> _Problem:
        kind, size = rng.choice(kinds), rng.choice(sizes)
        grid = None
        while grid is None:
            share = 0.0 if kind == "open" else walls
            grid = draw_map(rng, size, share, with_key=kind == "key")
        return _Problem(kind, grid)

    return draw


def _walked(task: Task, messages: Sequence[Message]) -> tuple[GridMap, Where]:
    """The map, and where the completions so far led."""
    grid = map_of(task.columns)
    where = grid.beginning
    for message in messages:
        move = None
        if message["role"] == "assistant":
            move = move_of(message["content"], task.columns["form"])
        if move is not None:
            where = grid.after(where, move)
    return grid, where


def _written(task: Task, move: str) -> str:
    return WORDS[move] if task.columns["form"] == "words" else move


def optimal(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
    """A shortest way, with the whole map in sight; any one of the best moves."""
    grid, where = _walked(task, messages)
    return _written(task, rng.choice(grid.best_moves(where)))


def random_move(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
    """Any of the four directions."""
    return _written(task, rng.choice(list(MOVES)))


def wandering(mistakes: float, *, thoughts: bool = False) -> Policy:
    """The optimal policy, but a random move with probability `mistakes`."""

    def act(task: Task, messages: Sequence[Message], rng: random.Random) -> str:
        policy = random_move if rng.random() < mistakes else optimal
        move = policy(task, messages, rng)
        if not thoughts:
            return move
        grid, where = _walked(task, messages)
        target = grid.goal if where.has_key or grid.key is None else grid.key
        right, down = (there - here for there, here in zip(target, where.cell, strict=True))
        return f"{right:+d}{down:+d}>{move}"

    return act


POLICIES: dict[str, Policy] = {"random": random_move, "optimal": optimal}
