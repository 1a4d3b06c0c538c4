"""Calls are read in each format; what cannot be read is said, and never ends a run."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlcore.rollout.tool_calls import format_of, read_message
from tests.rollout.test_chat_templates import CHATML, tokenizer_with

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "text": {"type": "string"}},
        },
    },
}
HERMES = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("format", "text", "content", "calls"),
    [
        ("hermes", HERMES, "", [("add", {"a": 1})]),
        ("hermes", f"I add.\n{HERMES}\n{HERMES}", "I add.", [("add", {"a": 1})] * 2),
        ("hermes", '<tool_call>{"name": "f", "arguments": {}}</tool_call>', "", [("f", {})]),
        ("hermes", "just words", "just words", []),
        ("hermes", f"<think>{HERMES}</think>no call", "no call", []),
        (
            "xml",
            "<tool_call>\n<function=add>\n<parameter=a>\n7\n</parameter>\n<parameter=text>\n7\n</parameter>\n</function>\n</tool_call>",
            "",
            [("add", {"a": 7, "text": "7"})],
        ),
        ("llama", '{"name": "add", "parameters": {"a": 1}}', "", [("add", {"a": 1})]),
        ("llama", '<|python_tag|>{"name": "add", "parameters": {"a": 1}}', "", [("add", {"a": 1})]),
        ("llama", "The sum is {2}.", "The sum is {2}.", []),
        (
            "mistral",
            '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}, {"name": "f", "arguments": {}}]',
            "",
            [("add", {"a": 1}), ("f", {})],
        ),
    ],
)
def test_calls_are_read(format: str, text: str, content: str, calls: list) -> None:
    message = read_message(text, format, [ADD])
    assert message["content"] == content and "malformed" not in message
    read = [call["function"] for call in message.get("tool_calls", [])]
    assert [(function["name"], function["arguments"]) for function in read] == calls
    ids = [call["id"] for call in message.get("tool_calls", [])]
    assert len(set(ids)) == len(ids) and all(len(id) == 9 and id.isalnum() for id in ids)


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("hermes", '<tool_call>{"name": "add", arguments}</tool_call>'),
        ("hermes", '<tool_call>{"name": "add"}</tool_call>'),
        ("hermes", '<tool_call>[1, 2]</tool_call>'),
        ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "add", "arguments": [1]}</tool_call>'),
        ("hermes", "<tool_call>" * 50),
        ("llama", '{"name": "add", "parameters": {"a": '),
        ("mistral", '[TOOL_CALLS] [{"name": "add"}]'),
    ],
)
def test_what_cannot_be_read_is_said(format: str, text: str) -> None:
    message = read_message(text, format, [ADD])
    assert message["malformed"] and message["content"] == text and "tool_calls" not in message


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["hermes", "xml", "llama", "mistral"]),
    st.lists(
        st.sampled_from(
            ["<tool_call>", "</tool_call>", "{", "}", '"name"', ":", '"add"', ",", "[TOOL_CALLS]", "[", "]",
             '"arguments"', "<function=", "add>", "</function>", "<parameter=", "<think>", "</think>", "null",
             "\x00", "1e999", "NaN", "\ud800", "\n", "x"]
        ),
        max_size=30,
    ).map("".join),
)  # fmt: skip
def test_any_text_gives_a_message(format: str, text: str) -> None:
    message = read_message(text, format, [ADD])
    assert isinstance(message["content"], str)
    for call in message.get("tool_calls", []):
        assert isinstance(call["function"]["name"], str)
        json.dumps(call["function"]["arguments"])


@pytest.mark.parametrize(
    ("template", "format"),
    [
        (CHATML, None),
        (CHATML + "<tool_call>", "hermes"),
        (CHATML + "<tool_call><function=", "xml"),
        (CHATML + "[TOOL_CALLS]", "mistral"),
        (CHATML + "<|python_tag|>", "llama"),
    ],
)
def test_the_format_is_that_of_the_template(template: str, format: str | None) -> None:
    assert format_of(tokenizer_with(template)) == format
