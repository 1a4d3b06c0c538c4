"""One environment worker, as the pool sees it: calls, deadlines, and its replacement when it is lost."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal

from rlcore.env.child import HEADER, LOADED, Call, Setup
from rlcore.errors import EnvError
from rlcore.workers.process import WorkerProcess

LOAD_DEADLINE_S = 600.0
"""For importing an environment and what it loads."""
GRACE_S = 1.0
"""Concurrent calls are cut in the worker, at their deadline; the parent waits this much longer."""
LARGEST_REPLY = 64 << 20
"""Bytes of one reply; a longer one is no reply of ours."""


class WorkerLost(Exception):
    """A call got no usable reply. `status` is "timed-out" or "crashed"."""

    def __init__(
        self, status: Literal["timed-out", "crashed"], reason: str, *, alone: bool
    ) -> None:
        """alone: this call is known to be the cause, as no other one was under way; it is not tried again."""
        super().__init__(reason)
        self.status, self.reason, self.alone = status, reason, alone


class EnvironmentWorker:
    """Lives on the pool's event loop. A lost process is replaced at once; `generation` counts the processes."""

    def __init__(self, setup: Setup, *, deadline_s: float, python: str | None) -> None:
        self._setup = setup
        self._deadline_s = deadline_s
        self._process = WorkerProcess("rlcore.env.child:serve", python=python)
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._ready: asyncio.Future[dict[str, Any]] | None = None
        self._number = LOADED
        self._closed = False
        self._is_dead = False  # it died while importing; the next call starts it again
        self._turns = _Turns()
        self.generation = 0
        self.episodes = 0
        """Open episodes."""

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def start(self) -> None:
        """Start the process, without waiting until the environment is imported."""
        self.generation += 1
        self._is_dead = False
        self._number = LOADED
        self._ready = asyncio.get_running_loop().create_future()
        self._waiting = {LOADED: self._ready}
        try:
            connection = self._process.start()
        except OSError as error:  # memory is short, or there is no such interpreter
            self._is_dead = True
            self._end(f"{error}")
            return
        reader, self._writer = await asyncio.open_unix_connection(sock=connection)
        self._reading = asyncio.create_task(self._read(reader, self.generation))
        self._write(pickle.dumps(tuple(self._setup)))

    async def ready(self) -> dict[str, Any]:
        """What the worker says of the environment it imported. Raises `EnvError`."""
        if self._is_dead:
            await self.start()
        ready = None
        while ready is not self._ready:
            # Waited for again where the process was replaced meanwhile.
            ready = self._ready
            assert ready is not None
            await asyncio.wait({ready}, timeout=LOAD_DEADLINE_S)
        if not ready.done():
            self._is_dead = True
            self._end("late")
            raise EnvError(f"the environment was not imported within {LOAD_DEADLINE_S:g} s")
        try:
            loaded = ready.result()
        except WorkerLost as lost:
            reason = lost.reason
            if "SIGABRT" in reason and self._setup.memory_gb:  # libraries abort without memory
                reason += f"; env.memory_gb, {self._setup.memory_gb:g}, may be too little"
            raise EnvError(f"the environment worker did not start: {reason}") from None
        if "failed" in loaded:
            raise EnvError(loaded["failed"])
        self._turns.concurrent = loaded["concurrent"]
        return loaded

    @asynccontextmanager
    async def turn(self, *, exclusive: bool) -> AsyncIterator[None]:
        """Wait until a call may be made; alone in the worker if `exclusive`, or if the environment is not async."""
        await self.ready()
        async with self._turns.one(exclusive=exclusive):
            await self.ready()  # it may have been replaced meanwhile
            yield

    async def call(
        self, kind: str, episode: str, content: Any, generation: int
    ) -> dict[str, Any]:
        """One turn, in the process of this generation. Raises `WorkerLost`, with the worker being replaced."""
        if generation != self.generation:
            raise WorkerLost("crashed", "its process was replaced", alone=False)
        self._number += 1
        number = self._number
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._write(pickle.dumps(tuple(Call(number, kind, episode, content))))
            limit_s = self._deadline_s + (GRACE_S if self._turns.concurrent else 0.0)
            await asyncio.wait({future}, timeout=limit_s)
            if future.done():  # also where the reply and the deadline came together
                return future.result()
            # Whoever was late first has emptied the list: then nobody can be told to be the cause.
            alone = generation == self.generation and len(self._waiting) == 1
            reason = f"no reply within {self._deadline_s:g} s"
            await self._replace(generation, "killed because another episode did not reply")
            raise WorkerLost("timed-out", reason, alone=alone)
        finally:
            if generation == self.generation:
                self._waiting.pop(number, None)

    def tell(self, kind: str, episode: str) -> None:
        """A call whose reply nobody needs."""
        self._number += 1
        self._write(pickle.dumps(tuple(Call(self._number, kind, episode, None))))

    async def close(self) -> None:
        """Kill the process for good."""
        self._closed = True
        self._end("closed")

    def _write(self, frame: bytes) -> None:
        assert self._writer is not None
        # Not drained: a worker that stops reading is noticed at the deadline of its call.
        self._writer.write(HEADER.pack(len(frame)) + frame)

    async def _read(self, reader: asyncio.StreamReader, generation: int) -> None:
        try:
            while True:
                (size,) = HEADER.unpack(await reader.readexactly(HEADER.size))
                if size > LARGEST_REPLY:
                    raise ValueError(f"a reply of {size:,} bytes")
                number, pid, content = json.loads(await reader.readexactly(size))
                if pid != self.pid or not isinstance(content, dict):
                    raise ValueError("it is no reply of the worker's own")
                future = self._waiting.pop(number, None)
                if future is not None and not future.done():
                    future.set_result(content)
        except (OSError, EOFError) as error:
            # In a thread: a process that only closed its connection is waited for.
            reason = await asyncio.to_thread(self._process.cause_of_death, error)
        except (ValueError, TypeError, RecursionError) as error:
            reason = f"its reply cannot be read ({error})"
        if generation != self.generation or self._closed:
            return
        if self._has_loaded:
            await self._replace(generation, reason)
        else:
            # Starting it again at once would go on for ever.
            self._is_dead = True
            self._end(f"{reason} while importing the environment")

    @property
    def _has_loaded(self) -> bool:
        ready = self._ready
        if ready is None or not ready.done() or ready.exception() is not None:
            return False
        return "failed" not in ready.result()

    async def _replace(self, generation: int, reason: str) -> None:
        """Kill the process and start another; the calls under way are told that they are lost."""
        if generation != self.generation or self._closed:
            return
        self._end(reason)
        await self.start()

    def _end(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, {}
        if self._writer is not None:
            self._writer.close()
        current = asyncio.current_task()
        if self._reading is not None and self._reading is not current:
            self._reading.cancel()
        self._process.kill()
        for future in waiting.values():
            if not future.done():
                # Never alone to blame: a process may be killed from outside, when memory is short.
                future.set_exception(WorkerLost("crashed", reason, alone=False))
                future.exception()  # nobody may be waiting for it


class _Turns:
    """Who may call a worker: many at once if the environment is async, else one; or one that must be alone."""

    def __init__(self) -> None:
        self.concurrent = False
        self._running = 0
        self._alone = False
        self._wait_alone = 0
        """Callers that wait to be alone; those that need not be let them go first, or they would wait for ever."""
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def one(self, *, exclusive: bool) -> AsyncIterator[None]:
        async with self._changed:
            exclusive = exclusive or not self.concurrent
            self._wait_alone += exclusive
            try:
                await self._changed.wait_for(partial(self._is_free, exclusive))
            finally:
                self._wait_alone -= exclusive
                self._changed.notify_all()
            self._running += 1
            self._alone = exclusive
        try:
            yield
        finally:
            async with self._changed:
                self._running -= 1
                self._alone = False
                self._changed.notify_all()

    def _is_free(self, exclusive: bool) -> bool:
        if self._alone:
            return False
        return not self._running if exclusive else not self._wait_alone
