"""What goes wrong around an environment, tried on the user's own: `misbehaving` wraps it.

An episode whose task has the column `FAULT` commits the fault in its first turn. Its neighbours, in the same worker, must go on as if nothing had
happened.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlcore.env.base import Observation
from rlcore.env.forms import (
    EnvironmentSpec,
    Episode,
    Loaded,
    adapter,
    is_concurrent,
    load_environment,
)
from rlcore.env.kit.play import Turn, ask, wait_for
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.types import Message, Task

FAULT = "rlcore_fault"
NEIGHBOURS = 2


def _hang() -> None:
    while True:
        pass


def _raise() -> None:
    raise LookupError("a planted exception")


def _fill_memory() -> None:
    blocks = []
    while True:
        # Zeros that are never read count towards the limit and take no physical memory.
        blocks.append(bytes(64 << 20))


def _fork() -> str:
    os.fork()
    time.sleep(0.05)
    return "of two processes"


FAULTS: Mapping[str, tuple[Callable[[], Any], str]] = {
    "exception": (_raise, "crashed"),
    "infinite loop": (_hang, "timed-out"),
    "huge reply": (lambda: "a" * 20_000_000, "answered"),
    "a number as reply": (lambda: 7, "crashed"),
    "reward NaN": (lambda: Observation("x", reward=float("nan")), "crashed"),
    "exit": (lambda: os._exit(3), "crashed"),
    "segmentation fault": (lambda: ctypes.string_at(0), "crashed"),
    "memory": (_fill_memory, "crashed"),
    "fork that returns": (_fork, "answered"),
}
"""What a turn does, and what must come of it."""


@dataclass(frozen=True, kw_only=True)
class FaultTrial:
    """Result of one fault."""

    name: str
    status: str
    """answered, timed-out or crashed."""
    reason: str
    seconds: float
    neighbours: int
    """How many of `NEIGHBOURS` episodes in the same worker were answered as without the fault."""
    contained: bool
    """Whether the fault got its status, and all neighbours went on."""


@adapter
def misbehaving(
    *,
    use: str,
    tools: list[str | dict[str, Any]] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Loaded:
    """The environment `use`, which commits the fault that the task's column names."""
    loaded = load_environment(EnvironmentSpec(use, tools or [], dict(params or {})))
    form = _Concurrent if is_concurrent(loaded.make()) else _Misbehaving
    return replace(loaded, make=lambda: form(Episode(loaded)))


class _Misbehaving:
    """An episode of the user's environment."""

    def __init__(self, inner: Episode) -> None:
        self._inner = inner
        self._fault = ""

    async def reset(self, **task: Any) -> Observation:
        self._fault = task.pop(FAULT, "")
        return await self._inner.reset(task)

    def step(self, message: Message) -> Any:
        """Not a coroutine function: the inner environment is called alone."""
        return self._next(message)

    def _next(self, message: Message) -> Awaitable[Observation] | Any:
        fault, self._fault = self._fault, ""
        return FAULTS[fault][0]() if fault else self._inner.step(message)

    def close(self) -> None:
        self._inner.close()

    async def wait_closed(self) -> None:
        await self._inner.wait_closed()


class _Concurrent(_Misbehaving):
    async def step(self, message: Message) -> Any:
        answer = self._next(message)
        return await answer if isinstance(answer, Awaitable) else answer


def try_faults(
    pool: EnvironmentPool,
    task: Task,
    expected: Sequence[Turn],
    *,
    deadline_s: float,
    names: Sequence[str] = tuple(FAULTS),
) -> list[FaultTrial]:
    """Try faults in a pool of one worker that runs `misbehaving`. expected: an episode of the same task without a fault: its first turn is
    played before each fault and its second after it, where it has one."""
    return [_try(pool, name, task, expected, deadline_s) for name in names]


def _try(
    pool: EnvironmentPool, name: str, task: Task, expected: Sequence[Turn], deadline_s: float
) -> FaultTrial:
    keys = [f"neighbour {number}" for number in range(NEIGHBOURS)]
    begun, *turns = expected[:3]
    for key in keys:
        ask(pool, key, None, task=task, deadline_s=deadline_s)
    before = turns[0] if turns and turns[0].goes_on else None
    if before is not None:
        _tell(pool, keys, before, deadline_s)
    last = turns[-1] if turns else begun
    faulty = replace(task, columns={**task.columns, FAULT: name})
    ask(pool, "faulty", None, task=faulty, deadline_s=deadline_s)
    said = turns[0].said if turns else {"role": "assistant", "content": "x"}
    turn = ask(pool, "faulty", said, deadline_s=deadline_s)
    answers = _tell(pool, keys, last, deadline_s)
    same = sum(answer == last.answer for answer in answers)
    for key in [*keys, "faulty"]:
        pool.forget(key)
    status, reason = "answered", ""
    if isinstance(turn.answer, Failed):
        status, reason = turn.answer.status, turn.answer.reason
    return FaultTrial(
        name=name,
        status=status,
        reason=reason,
        seconds=turn.seconds,
        neighbours=same,
        contained=status == FAULTS[name][1] and same == NEIGHBOURS,
    )


def _tell(
    pool: EnvironmentPool, keys: list[str], turn: Turn, deadline_s: float
) -> list[Observation | Failed]:
    assert turn.said is not None
    for key in keys:
        pool.step(key, turn.said)
    answers = wait_for(pool, keys, deadline_s)
    return [answers[key] for key in keys]
