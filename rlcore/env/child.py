"""The inside of an environment worker: it imports the environment and runs its episodes.

Calls come as length and pickle, replies go as length and JSON: what an environment says must be plain. A reply carries
the number of its call and the process id of its sender, so that a process that the environment forked and
that returns cannot shift the replies. Async environments run side by side; the parent gives others one call at a time.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import pickle
import resource
import socket
import struct
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from rlcore.env.base import Observation, finite, messages_of
from rlcore.env.forms import (
    EnvironmentSpec,
    Episode,
    Loaded,
    close_of,
    is_concurrent,
    load_environment,
)
from rlcore.errors import EnvError, RlcoreError
from rlcore.types import Message
from rlcore.workers.process import die_with

HEADER = struct.Struct("!Q")
LOADED = 0
"""Number of the reply that says what was loaded; calls count from 1."""
TIMES_LARGEST = 20
LEAST_LARGEST = 100_000
"""A whole observation is at most this many characters and this many times the longest message."""
LEAST_FREE_GB = 0.05
"""Of its limit on memory, what a worker needs beside the data that it has."""
CUT = "\n[... cut: the reply was longer than {limit:,} characters]"


class Setup(NamedTuple):
    """What the parent sends first."""

    spec: EnvironmentSpec
    memory_gb: float | None
    max_reply: int
    """Longest text of one message, in characters."""
    deadline_s: float
    """For one turn of an async environment; the parent's own deadline bounds the others."""


class Call(NamedTuple):
    """What the parent sends for each turn."""

    number: int
    kind: str
    """reset, step or close."""
    episode: str
    content: Any
    """The task's columns, the policy's message, or None."""


def serve(descriptor: int, parent: int) -> None:
    """The main loop."""
    threading.Thread(target=die_with, args=(parent,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A process that the environment forks must neither read calls nor write replies, nor hide the death of this one.
    nothing = os.open(os.devnull, os.O_RDWR)
    os.register_at_fork(after_in_child=lambda: os.dup2(nothing, descriptor))
    asyncio.run(_serve(socket.socket(fileno=descriptor)))


async def _serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    setup = Setup(*pickle.loads(await _frame(reader)))
    try:
        _limit_memory(setup.memory_gb)
        loaded = load_environment(setup.spec)
        facts = {
            "tools": [dict(schema) for schema in loaded.schemas],
            "concurrent": _may_wait(loaded),
            "asks": list(loaded.asks),
            "overlaid": list(loaded.overlaid),
            "rewards": loaded.rewards,
        }
        await _send(writer, LOADED, facts)
    except Exception as error:  # constructors are the user's
        reason = _in_words(error)
        if setup.memory_gb and not isinstance(error, EnvError) and _is_short(setup.memory_gb):
            reason += f"; its worker has almost no memory left of env.memory_gb, {setup.memory_gb:g}: raise it"
        await _send(writer, LOADED, {"failed": reason})
        return
    worker = _Episodes(loaded, setup)
    running: set[asyncio.Task[None]] = set()

    async def answer(call: Call) -> None:
        await _send(writer, call.number, await worker.answer(call))

    while True:
        try:
            call = Call(*pickle.loads(await _frame(reader)))
        except asyncio.IncompleteReadError:
            return
        task = asyncio.create_task(answer(call))
        running.add(task)
        task.add_done_callback(running.discard)


def _limit_memory(memory_gb: float | None) -> None:
    """Bound the data of this process. Raises `EnvError` for a bound that it would reach at once."""
    if not memory_gb:
        return
    if _is_short(memory_gb):
        least = math.ceil(100 * (_data_gb() + LEAST_FREE_GB)) / 100
        raise EnvError(
            f"env.memory_gb is {memory_gb:g}, which does not even hold a worker without an environment: "
            f"give it {least:g} or more"
        )
    size = int(memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _is_short(memory_gb: float) -> bool:
    return memory_gb < _data_gb() + LEAST_FREE_GB


def _data_gb() -> float:
    """GiB that count towards the limit on data; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return int(lines["VmData"].split()[0]) / 2**20


class _Episodes:
    """The open episodes of this worker."""

    def __init__(self, loaded: Loaded, setup: Setup) -> None:
        self._loaded, self._setup = loaded, setup
        self._open: dict[str, Episode] = {}
        self._running: dict[str, asyncio.Task[Any]] = {}
        """The turn that is under way, by episode."""
        self._pid = os.getpid()

    async def answer(self, call: Call) -> dict[str, Any]:
        """What is replied to a call; an episode that crashes or is late is over."""
        if call.kind == "close":
            turn = self._running.get(call.episode)
            if turn is not None:
                turn.cancel()
            self._close(call.episode)
            return {}
        self._running[call.episode] = asyncio.current_task()  # type: ignore[assignment]
        try:
            return await self._in_time(call)
        finally:
            self._running.pop(call.episode, None)

    async def _in_time(self, call: Call) -> dict[str, Any]:
        clock = asyncio.timeout(self._setup.deadline_s)
        try:
            async with clock:
                reply = plain(await self._turn(call), self._setup.max_reply)
        # Plugins raise anything: SystemExit is no subclass of Exception.
        except BaseException as error:
            self._leave_if_forked()
            episode = self._close(call.episode)
            if clock.expired():
                # Never replied to if something of it cannot be stopped: the parent then kills this process.
                if episode is not None:
                    await episode.wait_closed()
                return {"timed-out": f"no reply within {self._setup.deadline_s:g} s"}
            return {"crashed": _in_words(error)}
        self._leave_if_forked()
        if reply["done"]:
            self._close(call.episode)
        return reply

    def _leave_if_forked(self) -> None:
        """End a process that the environment forked and let return."""
        if os.getpid() != self._pid:
            os._exit(1)

    async def _turn(self, call: Call) -> Observation:
        if call.kind == "step":
            return await self._open[call.episode].step(call.content)
        episode = self._open[call.episode] = Episode(self._loaded)
        return await episode.reset(pickle.loads(call.content))

    def _close(self, name: str) -> Episode | None:
        episode = self._open.pop(name, None)
        if episode is not None:
            try:
                episode.close()
            except BaseException:  # it is over: nobody can use what it says
                traceback.print_exc()
        return episode


def plain(observation: Observation, max_reply: int) -> dict[str, Any]:
    """An observation as JSON. Raises TypeError or ValueError for values that are none."""
    reply = observation.reply
    as_text = isinstance(reply, str)
    messages = [_short(message, max_reply) for message in messages_of(reply)]
    reward = finite(observation.reward, "the reward of a turn")
    metrics = {
        str(name): finite(value, f"the metric {name!r} of a turn")
        for name, value in observation.metrics.items()
    }
    content = {
        "messages": messages,
        "as_text": as_text,
        "reward": reward,
        "done": bool(observation.done),
        "state": None if observation.state is None else str(observation.state),
        "restart": bool(observation.restart),
        "text": None if observation.text is None else str(observation.text)[:max_reply],
        "metrics": metrics,
    }
    largest = TIMES_LARGEST * max_reply + LEAST_LARGEST
    # There may be any number of messages: their texts are counted first, as it takes less time.
    size = sum(len(message.get("content") or "") for message in messages)
    if size <= largest:
        # A message may hold what is no JSON.
        size = len(json.dumps(content, allow_nan=False))
    if size > largest:
        raise ValueError(
            f"an observation of {size:,} characters; at most {largest:,} are passed on"
        )
    return content


def _short(message: Message, limit: int) -> Message:
    text = message.get("content")
    if isinstance(text, str) and len(text) > limit:
        return {**message, "content": text[:limit] + CUT.format(limit=limit)}
    return dict(message)


def _may_wait(loaded: Loaded) -> bool:
    """Whether several episodes may be under way at once."""
    environment = loaded.make()
    try:
        return is_concurrent(environment)
    finally:
        # Of one that was never reset; what it says of that does not matter.
        with suppress(Exception):
            close_of(environment)()


def _in_words(error: BaseException) -> str:
    """`TypeName: message (file:line)`, or a sentence of ours as it is."""
    if isinstance(error, RlcoreError):
        return str(error)
    try:
        message = " ".join(str(error).split())[:300]
    except BaseException:  # an exception that cannot say what it is
        message = ""
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        text += f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"
    return text


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = HEADER.unpack(await reader.readexactly(HEADER.size))
    return await reader.readexactly(size)


async def _send(writer: asyncio.StreamWriter, number: int, content: Any) -> None:
    # Half a pair of surrogates is no text that a tokenizer takes.
    frame = json.dumps([number, os.getpid(), content], ensure_ascii=False).encode(
        errors="replace"
    )
    writer.write(HEADER.pack(len(frame)) + frame)
    await writer.drain()
