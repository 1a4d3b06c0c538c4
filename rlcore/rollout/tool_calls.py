"""Tool calls in a completion: read by transformers' response parser, in the formats that models are trained on.

    format   looks like                                                        models
    hermes   <tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>     Qwen 2.5 and 3, Hermes, SmolLM3
    xml      <tool_call><function=add><parameter=a>1</parameter></function></tool_call>   Qwen3-Coder, Qwen 3.5
    llama    {"name": "add", "parameters": {"a": 1}}                           Llama 3.1 to 3.3
    mistral  [TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]             Mistral, Ministral

A tokenizer that brings its own `response_template` is read by that. A call inside of thinking is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from rlcore.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ToolFormat = Literal["hermes", "xml", "llama", "mistral"]


def _called(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


_THINKING = {"open": "<think>", "close": "</think>", "content": "text"}
_CONTENT = {"content": "text", "repeats": True, "join": "\n"}
_CALLS: Mapping[ToolFormat, Mapping[str, Any]] = {
    "hermes": {
        "open": "<tool_call>",
        "close": "</tool_call>",
        "repeats": True,
        "content": "json",
        "transform": {"function": "{content}"},
    },
    "xml": {
        "open_pattern": r"<tool_call>\s*<function=(?P<name>[^>\n]+)>\s*",
        "close_pattern": r"</function>\s*</tool_call>",
        "repeats": True,
        "content": "xml-inline",
        "content_args": {
            "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n?(?P<value>.*?)\n?</parameter>"
        },
        "transform": _called("{name}", "{content}"),
    },
    "llama": {
        "open_pattern": r"(?:<\|python_tag\|>\s*)?(?=\{\s*\"name\")",
        "content": "json",
        "transform": {"function": "{content}"},
    },
    "mistral": {
        "open_pattern": r"\[TOOL_CALLS\]\s*(?=\[)",
        "content": "json",
        "transform_each": True,
        "transform": _called("{name}", "{arguments}"),
    },
}
_SIGNS: Sequence[tuple[str, ToolFormat]] = (
    ("<function=", "xml"),
    ("[TOOL_CALLS]", "mistral"),
    ("<tool_call>", "hermes"),
    ("<|python_tag|>", "llama"),
    ('"parameters": ', "llama"),
)
"""What a chat template holds -> the format of its calls."""


def format_of(tokenizer: PreTrainedTokenizerBase) -> ToolFormat | None:
    """The format in which the chat template writes calls; None if it writes none."""
    template = str(tokenizer.chat_template)
    return next((name for sign, name in _SIGNS if sign in template), None)


def read_message(
    text: str, format: ToolFormat, schemas: Sequence[Mapping[str, Any]], own: Any = None
) -> Message:
    """A completion as a message: `content` without the calls, `tool_calls` with an id each, `malformed` if they cannot be read.

    own: the tokenizer's `response_template`, in place of the format.
    """
    from transformers.utils.chat_parsing import parse_response

    template = own or {
        "defaults": {"role": "assistant"},
        "start_anchor_pattern": r"\A",
        "fields": {"thinking": _THINKING, "tool_calls": _CALLS[format], "content": _CONTENT},
    }
    try:
        parsed = parse_response(text, template, prefix="", tools=list(schemas))
        listed = parsed.get("tool_calls") or []
        # A format with one call a message gives no list.
        calls = [
            _checked(call["function"], number)
            for number, call in enumerate(listed if isinstance(listed, list) else [listed])
        ]
    except (ValueError, KeyError, TypeError) as error:
        return {"role": "assistant", "content": text, "malformed": _in_words(error)}
    message: Message = {"role": "assistant", "content": (parsed.get("content") or "").strip()}
    if calls:
        message["tool_calls"] = calls
    return message


def _checked(function: Any, number: int) -> dict[str, Any]:
    if not isinstance(function, dict):
        raise TypeError("it is no JSON object")
    name = function["name"]
    # Llama says parameters
    arguments = function["arguments"] if "arguments" in function else function["parameters"]
    if not isinstance(name, str):
        raise TypeError("its name is no text")
    if not isinstance(arguments, dict):
        raise TypeError("its arguments are no object")
    json.dumps(arguments)
    # nine letters and digits: Mistral's templates take no other id
    return {"id": f"call{number:05d}", **_called(name, arguments)}


def _in_words(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "it needs a name and arguments"
    lines = [line.removeprefix("Error: ") for line in str(error).splitlines()]
    return (lines or [type(error).__name__])[-1][:200]
