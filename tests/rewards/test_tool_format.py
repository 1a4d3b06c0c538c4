"""The format reward of conversations with tools."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rewards.tool_calls import tool_format
from rlcore.env.forms import EnvironmentSpec, load_environment


def said(*texts: Any) -> list[dict[str, Any]]:
    """The conversation of these completions with a calculator."""
    environment = load_environment(EnvironmentSpec(tools=["calculator"])).make()
    messages: list[dict[str, Any]] = [{"role": "user", "content": "6*7?"}]
    for text in texts:
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        if isinstance(text, str):
            message["content"] = text
        elif text is None:
            message["malformed"] = "it is no JSON"
        else:
            function = {"name": text[0], "arguments": text[1]}
            message["tool_calls"] = [{"type": "function", "function": function}]
        messages.append(message)
        reply = asyncio.run(environment.step(message)).reply
        if isinstance(reply, str):
            messages.append({"role": "user", "content": reply})
        else:
            messages += reply or []
    return messages


CALL = ("calculator", {"expression": "6*7"})
CASES = [
    ((CALL, "42"), 1.0),
    ((("calculator", {"expression": "6*"}), CALL, "42"), 1.0),
    (("42",), 0.0),
    ((None, "42"), 0.0),
    ((None, CALL, "42"), 0.0),
    ((("search", {"query": "6*7"}), "42"), 0.0),
    ((("calculator", {"text": "6*7"}), "42"), 0.0),
    ((("calculator", {"expression": "6*"}), "42"), 0.0),
]


@pytest.mark.parametrize(("texts", "value"), CASES)
def test_the_format_needs_a_call_that_works(texts: Any, value: float) -> None:
    messages = said(*texts)
    assert tool_format("42", messages=messages) == value
    assert tool_format("42", messages=messages, finished=False) == 0.0
