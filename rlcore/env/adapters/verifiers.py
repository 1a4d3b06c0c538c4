"""Classic environments of verifiers, release 0.3: `SingleTurnEnv`, `MultiTurnEnv`, `ToolEnv` and what is derived from them.

    env: {use: verifiers, env: wiki-search, params: {max_turns: 5}, python: /opt/verifiers/bin/python}

verifiers' own loop runs unchanged, with the policy as its client; the reward is that of its rubric, its metrics are metrics.
Tasks come from the environment's own data by the task set `verifiers`. Its requirements conflict with vLLM's, so it
usually has an interpreter of its own. Packages of verifiers v1 (a taskset and a harness) are refused.
"""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from rlcore.env.adapters.library import imported
from rlcore.env.adapters.program import Ask, Program, arguments_of
from rlcore.env.base import Observation
from rlcore.env.forms import Loaded, adapter
from rlcore.errors import RecipeError, first_line
from rlcore.plugin import find
from rlcore.types import Message
from rlcore.types.plain import plain

ROW = "verifiers_row"
"""Column of a task: the row of the environment's data that it came from."""
_broken: ContextVar[list[str]] = ContextVar("broken", default=[])  # noqa: B039
"""Reward functions that raised in this episode: verifiers itself takes their value as 0."""


@adapter
def verifiers(*, env: str, params: Mapping[str, Any] | None = None) -> Loaded:
    """An environment of verifiers 0.3.

    env: the id of an installed environment package, or `file.py:load_environment`. params: what its `load_environment` takes.
    """
    environment = load(env, dict(params or {}))
    _watch(environment.rubric)
    tools = [_schema(tool) for tool in environment.tool_defs or ()]
    return Loaded(env, lambda: Program(partial(_rollout, environment)), tools)


def load(env: str, params: Mapping[str, Any]) -> Any:
    """The environment. Raises `RecipeError` for one that cannot be run here."""
    vf = imported("verifiers", package="'verifiers==0.3.*'")
    try:
        if ":" in env:
            environment = find(env, {}, what="verifiers environment")(**params)
        else:
            environment = vf.load_environment(env, **params)
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(f"verifiers cannot load {env!r}: {first_line(error)}") from error
    if type(environment).__module__.startswith("verifiers.v1") or not isinstance(
        environment, vf.Environment
    ):
        raise RecipeError(
            f"{env!r} is a {type(environment).__name__}, no classic environment of verifiers: packages of v1 (tasksets and "
            "harnesses) are not supported; an agent program can be run by `env: {use: agent}`"
        )
    if not isinstance(environment, vf.MultiTurnEnv):
        raise RecipeError(
            f"{env!r} is a {type(environment).__name__}; only environments derived from MultiTurnEnv are supported"
        )
    if environment.rubric.has_group_rewards:
        raise RecipeError(
            f"{env!r} has a reward function that scores a whole group, which an environment here cannot have: an episode is scored alone"
        )
    return environment


def write_rows(request: str) -> None:
    """For the task set: write the rows of an environment's data to a file, one JSON a line. request: JSON."""
    wanted = json.loads(request)
    environment = load(wanted["env"], wanted["params"])
    read = (
        environment.get_eval_dataset if wanted["split"] == "eval" else environment.get_dataset
    )
    with Path(wanted["path"]).open("w", encoding="utf-8") as file:
        for row in read(n=wanted["size"] or -1):
            file.write(json.dumps(plain(row)) + "\n")


async def _rollout(environment: Any, ask: Ask, task: Mapping[str, Any]) -> Observation:
    row = dict(task.get(ROW) or {"example_id": 0, **task})
    row.update(prompt=task["prompt"], answer=row.get("answer", task["answer"]))
    _broken.set([])
    output = await environment.run_rollout(row, _client(ask), "policy", {})
    problems = _broken.get()
    if output["error"] is not None:
        raise RuntimeError(f"verifiers stopped the rollout: {_words(output['error'])}")
    if problems:
        raise RuntimeError(f"a reward function of the rubric raised {problems[0]}")
    metrics = {name: float(value) for name, value in (output["metrics"] or {}).items()}
    return Observation(done=True, reward=float(output["reward"]), metrics=metrics)


def _words(error: Any) -> str:
    if isinstance(error, Mapping):
        return str(error.get("error_chain_str") or error.get("error") or error)
    return str(error)


def _client(ask: Ask) -> Any:
    """The policy as a client of verifiers."""
    from verifiers.types import Response, ResponseMessage, ToolCall

    async def get_response(prompt: Sequence[Any], **_: Any) -> Response:
        message = await ask([_from_verifiers(one) for one in prompt])
        calls = [
            ToolCall(
                id=call.get("id") or f"call{number:05d}",
                name=call["function"]["name"],
                arguments=json.dumps(arguments_of(call["function"])),
            )
            for number, call in enumerate(message.get("tool_calls") or ())
        ]
        reply = ResponseMessage(
            content=message.get("content") or "",
            tool_calls=calls or None,
            finish_reason="tool_calls" if calls else "stop",
            is_truncated=False,
        )
        return Response(id="policy", created=int(time.time()), model="policy", message=reply)

    client = _policy_class()(None)
    client.get_response = get_response
    return client


@functools.cache
def _policy_class() -> type:
    import verifiers as vf

    async def unused(self: Any, *_: Any, **__: Any) -> None:
        """Of a client that talks to a server."""

    names = vf.Client.__abstractmethods__
    return type("Policy", (vf.Client,), dict.fromkeys(names, unused))


def _from_verifiers(message: Any) -> Message:
    """A message of verifiers in the form of chat templates."""
    content = message.content
    if isinstance(content, list):
        content = "".join(_text(part) for part in content)
    role = "user" if message.role == "text" else message.role
    converted: Message = {"role": role, "content": content or ""}
    calls = getattr(message, "tool_calls", None) or ()
    if calls:
        converted["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": arguments_of(dict(call))},
            }
            for call in calls
        ]
    if getattr(message, "tool_call_id", None):
        converted["tool_call_id"] = message.tool_call_id
    return converted


def _text(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else getattr(part, "text", None)
    if text is None:
        raise TypeError(
            "the environment sent a content that is no text; the policy reads text only"
        )
    return str(text)


def _schema(tool: Any) -> dict[str, Any]:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.parameters),
    }
    return {"type": "function", "function": function}


def _watch(rubric: Any) -> None:
    """Note what the rubric's functions raise."""
    for inner in getattr(rubric, "rubrics", ()):
        _watch(inner)
    rubric.funcs[:] = [_watched(function) for function in rubric.funcs]


def _watched(function: Callable[..., Any]) -> Callable[..., Any]:
    name = getattr(function, "__name__", repr(function))

    @functools.wraps(function)
    async def watched(*given: Any, **named: Any) -> Any:
        try:
            value = function(*given, **named)
            return await value if isinstance(value, Awaitable) else value
        except Exception as error:
            _broken.get().append(f"{type(error).__name__} in {name}: {first_line(error)}")
            raise

    # Its parameters say what it is given.
    watched.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    watched.__name__ = name
    return watched
