"""Programs that ask for completions, as environments.

An agent, or the rollout loop of another library, calls the policy; an environment is called by it. `Program` stands
between the two: the program runs beside, each request that it makes waits, and a step hands it the
completion and returns what it asks for next.

    program   ask(messages) ......... gets the completion ... ask(messages) ...
    policy         observation -> completion -> step(completion) -> observation

A request that goes on where the last completion ended adds its new messages to the sequence. Any other one begins a
further training sequence with all of its messages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rlcore.env.base import Observation, messages_of
from rlcore.types import Message

Ask = Callable[[Sequence[Message]], Awaitable[Message]]
"""A request: all messages of a prompt, answered by the policy's next message."""
Run = Callable[[Ask, Mapping[str, Any]], Awaitable[Observation]]
"""A program: given how to ask and the task's columns, it returns the last observation."""


class Program:
    """One episode of a program. Requests that are made at the same time are answered one after the other."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._one = asyncio.Lock()
        self._asked: asyncio.Queue[list[Message]] = asyncio.Queue()
        self._written: asyncio.Queue[Message] = asyncio.Queue()
        self._shown: list[Message] = []
        """What the policy's sequence holds so far."""
        self._running: asyncio.Task[Observation] | None = None

    async def reset(self, **task: Any) -> Observation:
        """Start the program; its first request."""
        self._shown = messages_of(task["prompt"])
        self._running = asyncio.create_task(self._until_done(task))
        first = await self._next()
        if first.done:
            raise RuntimeError("the program ended without asking for a completion")
        return first

    async def step(self, message: Message) -> Observation:
        """Give the waiting request its completion; the next request, or the end."""
        self._shown.append(message)
        self._written.put_nowait(message)
        return await self._next()

    def close(self) -> None:
        """Stop the program."""
        if self._running is not None:
            self._running.cancel()

    async def wait_closed(self) -> None:
        """Wait until the program has stopped."""
        if self._running is not None:
            await asyncio.wait({self._running})

    async def _until_done(self, task: Mapping[str, Any]) -> Observation:
        return await self._run(self._ask, task)

    async def _ask(self, messages: Sequence[Message]) -> Message:
        async with self._one:
            self._asked.put_nowait(list(messages))
            return await self._written.get()

    async def _next(self) -> Observation:
        assert self._running is not None
        asked = asyncio.ensure_future(self._asked.get())
        try:
            await asyncio.wait({asked, self._running}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        if self._running.done():
            return self._running.result()
        messages = asked.result()
        fresh = continuation(self._shown, messages)
        self._shown = list(messages)
        if fresh is None:
            return Observation(messages, restart=True)
        return Observation(fresh or None)


def continuation(shown: Sequence[Message], messages: Sequence[Message]) -> list[Message] | None:
    """What `messages` adds to those shown; None if it is no continuation of them."""
    if len(messages) < len(shown):
        return None
    if not all(map(_is_same, shown, messages)):
        return None
    fresh = list(messages[len(shown) :])
    if any(message["role"] == "assistant" for message in fresh):
        # The policy did not write it, at least not here.
        return None
    return fresh


def _is_same(left: Message, right: Message) -> bool:
    if left["role"] != right["role"] or (left.get("content") or "") != (
        right.get("content") or ""
    ):
        return False
    return _calls(left) == _calls(right)


def _calls(message: Message) -> list[tuple[str, Any]]:
    """Names and arguments; programs often give calls other ids."""
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return [(call["name"], arguments_of(call)) for call in calls]


def arguments_of(function: Mapping[str, Any]) -> Any:
    """Arguments of a call: OpenAI's protocol has them as a text of JSON, chat templates as an object."""
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments
