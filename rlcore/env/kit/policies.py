"""Policies that need no model: texts in a row, a user's function, and texts and calls that break careless environments."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlcore.errors import EnvError
from rlcore.plugin import find, in_words
from rlcore.types import Message

Policy = Callable[[list[Message]], Message]
"""From the conversation so far to the next message of the assistant."""

ODD_TEXTS: Mapping[str, str] = {
    "empty": "",
    "spaces": " \n\t ",
    "a word": "yes",
    "a number": "7",
    "a huge number": "9" * 5_000,
    "NaN": "nan",
    "100 kB": "so on " * 16_667,
    "unicode": "\u202e\U0001d7d9\u0663\u00bd \ufeff\u0000 e\u0301 \U0001f469\u200d\U0001f52c",
    "half JSON": '{"action": "move", "to": [',
    "half a tag": "<think>hm</think><answer>",
    "braces": "{0} {name} %s %(x)d",
}
"""Completions that models do write; an environment must reply to each."""
_VALUES = {
    "string": "x",
    "integer": 1,
    "number": 0.5,
    "boolean": True,
    "array": [],
    "object": {},
}


def say(texts: Sequence[str]) -> Policy:
    """A policy that says these, and then the last of them again and again."""
    rest = itertools.chain(texts, itertools.repeat(texts[-1]))
    return lambda messages: {"role": "assistant", "content": next(rest)}


def odd_policies(schemas: Sequence[Mapping[str, Any]]) -> dict[str, Callable[[], Policy]]:
    """By name. With tools: each of them with arguments of its types, with none and with wrong ones, then an end."""
    policies = {name: _later([_said(text)]) for name, text in ODD_TEXTS.items()}
    for schema in schemas:
        function = schema.get("function", schema)
        name = function["name"]
        parameters = (function.get("parameters") or {}).get("properties") or {}
        fitting = {key: _value(parameter) for key, parameter in parameters.items()}
        wrong = {key: {"unexpected": [None]} for key in parameters}
        for kind, arguments in (
            ("", fitting),
            (" without arguments", {}),
            (" with wrong ones", wrong),
        ):
            policies[f"{name}{kind}"] = _later([_call(name, arguments), _said("done")])
    if schemas:
        policies["a tool that is none"] = _later([_call("no_such_tool", {}), _said("done")])
        broken = {**_said("<tool_call>{"), "malformed": "it is no JSON"}
        policies["a malformed call"] = _later([broken, _said("done")])
    return policies


def load_policy(use: str) -> Policy:
    """A user's function `file.py:name`: it takes the messages and returns a text or a message. Raises `EnvError`."""
    function = find(use, {}, what="policy", error=EnvError)

    def policy(messages: list[Message]) -> Message:
        try:
            said = function(messages)
        except Exception as error:
            raise EnvError(f"the policy {use!r} raised {in_words(error)}") from error
        if isinstance(said, str):
            return _said(said)
        if isinstance(said, Mapping) and isinstance(said.get("content"), str):
            return {"role": "assistant", **said}
        raise EnvError(
            f"the policy {use!r} returned a {type(said).__name__}; it must return a text or a message"
        )

    return policy


def in_row(messages: Sequence[Message]) -> Policy:
    """A policy that says these messages, and then the last of them again and again."""
    rest = itertools.chain(messages, itertools.repeat(messages[-1]))
    return lambda _: next(rest)


def _later(messages: Sequence[Message]) -> Callable[[], Policy]:
    return lambda: in_row(messages)


def _said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _call(name: str, arguments: Any) -> Message:
    function = {"name": name, "arguments": arguments}
    call = {"id": "call00000", "type": "function", "function": function}
    return {**_said(""), "tool_calls": [call]}


def _value(parameter: Mapping[str, Any]) -> Any:
    if parameter.get("enum"):
        return parameter["enum"][0]
    kind = parameter.get("type")
    return _VALUES.get(kind if isinstance(kind, str) else "string", "x")


def call_of(text: str, schemas: Sequence[Mapping[str, Any]]) -> Message | None:
    """A call written by a person, `name {"key": value}`; None if the text names no tool. Raises `ValueError`, also for
    the name of a tool in another case."""
    name, _, arguments = text.strip().partition(" ")
    names = [schema.get("function", schema)["name"] for schema in schemas]
    if name not in names:
        for other in names:
            if name.lower() == other.lower():
                raise ValueError(f"the tool is called {other!r}, not {name!r}")
        return None
    value = json.loads(arguments or "{}")
    if not isinstance(value, dict):
        raise ValueError("the arguments must be a JSON object")
    return _call(name, value)
