"""Functions and methods that the policy may call, in the form of TRL and transformers.

A tool is a function, plain or async, with typed arguments and a docstring in Google style; its JSON schema
is transformers' own. What it returns is shown to the policy as text; an exception is shown too, and
the episode goes on. The episode ends with a completion that calls nothing, or with a call of a tool that carries
`ends_episode = True`.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

from rlcore.env.base import Observation, task_arguments
from rlcore.errors import RecipeError, brief
from rlcore.plugin import signature
from rlcore.types import Message

Tool = Callable[..., Any]


def schema_of(tool: Tool) -> dict[str, Any]:
    """The JSON schema that chat templates render: of a function, or of an object's `__call__`, which is called by the
    object's `name` or else that of its class in lower case. Raises `RecipeError` where annotations or the docstring lack."""
    own = getattr(tool, "json_schema", None)
    if own is not None:
        return own
    is_object = not inspect.isroutine(tool)
    kind = type(tool)
    name = getattr(tool, "name", kind.__name__.lower()) if is_object else tool.__name__
    function = tool.__call__ if is_object else tool
    try:
        schema = _library_schema(function)
        schema["function"]["name"] = name
    except Exception as error:  # its own errors are many
        raise RecipeError(
            f"the tool {name!r} needs a type for each argument and a docstring with an 'Args:' section that "
            f"describes each ({' '.join(str(error).split())[:300]})"
        ) from error
    _refuse_misleading(name, function)
    return schema


def _library_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """transformers' own schema. To look for tensors among the types it would import torch: seconds and 200 MB for each
    worker of an environment, where a file that has not imported torch has no type of torch's."""
    from transformers.utils import chat_template_utils

    known = patch.object(
        chat_template_utils, "is_torch_available", lambda: "torch" in sys.modules, create=True
    )
    with known:
        return chat_template_utils.get_json_schema(function)


def _refuse_misleading(name: str, function: Callable[..., Any]) -> None:
    """Raise `RecipeError` for what has a schema and yet cannot be called as the schema says."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise RecipeError(
            f"the tool {name!r} is a generator function, whose values nobody would read: return one result in place of `yield`"
        )
    for parameter in signature(function).parameters.values():
        if not _is_type(parameter.annotation):
            raise RecipeError(
                f"the tool {name!r} annotates its argument {parameter.name!r} with {brief(parameter.annotation)}, "
                "which is no type: write one such as int or str"
            )


def _is_type(annotation: Any) -> bool:
    if annotation is None or isinstance(annotation, type | str):
        return True
    return type(annotation).__module__ in ("typing", "typing_extensions", "types")


def name_of(schema: Mapping[str, Any]) -> str:
    return schema.get("function", schema)["name"]


class ToolEnvironment:
    """Runs the calls of a completion and replies with one message of role `tool` for each.

    before: an environment object whose methods are the tools and whose `reset` and `get_reward` are
    called (TRL's `environment_factory` classes); None where the tools are plain functions.
    """

    def __init__(self, tools: Mapping[str, Tool], before: Any = None) -> None:
        self._tools = tools
        self._before = before

    @property
    def is_async(self) -> bool:
        """Whether a tool waits for something else than this process."""
        return any(map(inspect.iscoroutinefunction, self._tools.values()))

    async def reset(self, **task: Any) -> Observation:
        if self._before is None:
            return Observation()
        answer = self._before.reset(**task_arguments(self._before.reset, task))
        return Observation(await answer if inspect.isawaitable(answer) else answer)

    async def step(self, message: Message) -> Observation:
        problem = message.get("malformed")
        if problem:
            # Templates take no reply of a tool without a call, so this is one of the user.
            return Observation(
                f"Your tool call could not be read: {problem}", metrics={"malformed_calls": 1.0}
            )
        calls: Sequence[Mapping[str, Any]] = message.get("tool_calls") or ()
        if not calls:
            return await self._end(None, {})
        replies = await asyncio.gather(*(self._call(call["function"]) for call in calls))
        failed = sum(not worked for worked, _ in replies)
        metrics = {"tool_calls": float(len(calls)), "failed_calls": float(failed)}
        for call, (worked, text) in zip(calls, replies, strict=True):
            if worked and getattr(self._tools[call["function"]["name"]], "ends_episode", False):
                return await self._end(text, metrics)
        return Observation(
            [_reply(call, text) for call, (_, text) in zip(calls, replies, strict=True)],
            metrics=metrics,
        )

    def close(self) -> None:
        """Let the tools free what they hold."""
        for holder in (self._before, *self._tools.values()):
            close = getattr(holder, "close", None)
            if callable(close):
                close()

    async def _end(self, text: str | None, metrics: Mapping[str, float]) -> Observation:
        reward = getattr(self._before, "get_reward", None)
        value = reward() if reward is not None else 0.0
        if inspect.isawaitable(value):
            value = await value
        return Observation(done=True, reward=value, text=text, metrics=metrics)

    async def _call(self, call: Mapping[str, Any]) -> tuple[bool, str]:
        """(whether it worked, what the policy is told)."""
        tool = self._tools.get(call["name"])
        if tool is None:
            return False, _error(f"Tool {call['name']} not found.")
        arguments = call.get("arguments") or {}
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError as error:
                return False, _error(f"the arguments are no JSON: {error}")
        try:
            result = tool(**arguments)
            if inspect.isawaitable(result):
                result = await result
            return True, str(result)
        except Exception as error:
            return False, _error(str(error))


def _error(text: str) -> str:
    """What the policy reads in place of a result, word for word as TRL writes it."""
    return str({"error": text})


def _reply(call: Mapping[str, Any], text: str) -> Message:
    reply = {"role": "tool", "name": call["function"]["name"], "content": text}
    if "id" in call:
        reply["tool_call_id"] = call["id"]
    return reply


def methods_of(instance: Any) -> dict[str, Tool]:
    """The methods of an environment object that are tools: all public ones but `reset` and `get_reward`."""
    names = [
        name
        for name, _ in inspect.getmembers(type(instance), predicate=inspect.isfunction)
        if not name.startswith("_") and name not in ("reset", "get_reward", "step")
    ]
    return {name: getattr(instance, name) for name in names}
