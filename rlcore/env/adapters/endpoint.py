"""An OpenAI-compatible endpoint inside of an environment worker: what a program posts to it, the policy answers.

`POST .../v1/chat/completions` and `GET .../v1/models`, also streamed (as one piece). Every episode has a path of its own, with a
secret in it. Sampling belongs to the recipe: a request's own temperature and limits are ignored with a warning, and what
would need other tokens than the policy writes by itself is refused with status 400.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rlcore.env.adapters.program import Ask, arguments_of
from rlcore.types import Message

LARGEST_REQUEST = 64 << 20
"""Bytes of a request's body."""
IGNORED = (
    *(
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "seed",
        "presence_penalty",
    ),
    *("frequency_penalty", "parallel_tool_calls", "reasoning_effort"),
)
"""Keys of a request that the recipe decides."""
CHARACTERS_A_TOKEN = 4
"""For `usage`, which is an estimate: the tokens are counted where the policy runs."""


class Refused(Exception):
    """A request that cannot be answered as it is meant; the text says what to change."""


class Endpoint:
    """The server of one process. schemas: the tools that the policy's prompts show."""

    def __init__(self, schemas: Sequence[Mapping[str, Any]] = ()) -> None:
        self.schemas = list(schemas)
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.endpoint = self
        self._open: dict[str, tuple[Ask, asyncio.AbstractEventLoop]] = {}
        self._waiting: dict[str, set[Any]] = {}
        self._warned: set[str] = set()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def open(self, ask: Ask) -> str:
        """Begin an episode: the base URL for its program. Called on the event loop that `ask` belongs to."""
        secret = secrets.token_hex(16)
        self._open[secret] = (ask, asyncio.get_running_loop())
        self._waiting[secret] = set()
        return f"http://127.0.0.1:{self._server.server_address[1]}/{secret}/v1"

    def close(self, url: str) -> None:
        """End an episode; its waiting requests fail."""
        secret = url.split("/")[3]
        self._open.pop(secret, None)
        for future in self._waiting.pop(secret, set()):
            future.cancel()

    def answer(self, secret: str, body: Mapping[str, Any]) -> Message:
        """The policy's message. Blocks. Raises `Refused`, and `KeyError` or `CancelledError` if the episode is over."""
        messages = self._checked(body)
        ask, loop = self._open[secret]
        future = asyncio.run_coroutine_threadsafe(_asked(ask, messages), loop)
        self._waiting[secret].add(future)
        try:
            return future.result()
        finally:
            self._waiting.get(secret, set()).discard(future)

    def _checked(self, body: Mapping[str, Any]) -> list[Message]:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refused("`messages` must be a list of messages")
        if body.get("n") not in (None, 1):
            raise Refused("`n` must be 1: the policy writes one completion for each request")
        for key in ("stop", "response_format", "logprobs", "logit_bias", "prediction"):
            if body.get(key) not in (None, False, [], {}, {"type": "text"}):
                raise Refused(
                    f"`{key}` would need other tokens than the policy writes; leave it out (stop texts: sampling.stop in the recipe)"
                )
        self._check_tools(body)
        self._warn(sorted(key for key in IGNORED if body.get(key) is not None))
        return [_plain(message) for message in messages]

    def _check_tools(self, body: Mapping[str, Any]) -> None:
        if body.get("tool_choice") not in (None, "auto", "none"):
            raise Refused("`tool_choice` must be auto: the policy chooses")
        tools = body.get("tools") or []
        known = [_core(schema) for schema in self.schemas]
        unknown = [tool for tool in map(_core, tools) if tool not in known]
        if unknown:
            raise Refused(
                f"the policy's prompts do not show the tool {unknown[0].get('name')!r} as it is sent: name the list of tools in the "
                "recipe, `env: {use: agent, schemas: my_agent.py:TOOLS}`"
            )
        if len(tools) != len(known):
            self._warn(["tools (the prompt shows all of the recipe's)"])

    def _warn(self, keys: Sequence[str]) -> None:
        fresh = [key for key in keys if key not in self._warned]
        self._warned.update(fresh)
        if fresh:
            print(
                f"agent: {', '.join(fresh)} of its requests have no effect: sampling belongs to the recipe",
                file=sys.stderr,
                flush=True,
            )


async def _asked(ask: Ask, messages: list[Message]) -> Message:
    return await ask(messages)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    endpoint: Endpoint

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, format: str, *values: Any) -> None:
        """Nothing: a line for each request would fill the log."""

    def do_GET(self) -> None:
        if self.path.rstrip("/").endswith("/models"):
            model = {"id": "policy", "object": "model", "created": 0, "owned_by": "rlcore"}
            self._send(200, {"object": "list", "data": [model]})
        else:
            self._refuse(404, f"there is no {self.path.rpartition('/')[2]!r} here")

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        if size > LARGEST_REQUEST:
            self.close_connection = True
            return self._refuse(413, f"a request of {size:,} bytes")
        text = self.rfile.read(size)
        secret, _, route = self.path.lstrip("/").partition("/")
        if not route.rstrip("/").endswith("chat/completions"):
            return self._refuse(404, f"{route!r} is not served; use v1/chat/completions")
        try:
            body = json.loads(text)
            if not isinstance(body, dict):
                raise Refused("the body must be a JSON object")
            message = self.server.endpoint.answer(secret, body)
        except (KeyError, CancelledError):
            return self._refuse(410, "the episode is over")
        except (Refused, ValueError, TypeError, AttributeError) as error:
            return self._refuse(400, str(error))
        if body.get("stream"):
            self._stream(body, message)
        else:
            self._send(200, completion_of(body, message))

    def _stream(self, body: Mapping[str, Any], message: Message) -> None:
        """The whole completion as one chunk, then its end."""
        whole = completion_of(body, message)
        usage = whole.pop("usage")
        (choice,) = whole.pop("choices")
        delta = choice["message"]
        for index, call in enumerate(delta.get("tool_calls") or ()):
            call["index"] = index
        head = {**whole, "object": "chat.completion.chunk"}
        end = choice["finish_reason"]
        chunks = [
            {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
            {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": end}]},
        ]
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks.append({**head, "choices": [], "usage": usage})
        lines = [*(json.dumps(chunk) for chunk in chunks), "[DONE]"]
        text = "".join(f"data: {line}\n\n" for line in lines)
        self._write(200, "text/event-stream", text.encode())

    def _refuse(self, status: int, reason: str) -> None:
        error = {
            "message": reason,
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        self._send(status, {"error": error})

    def _send(self, status: int, content: Any) -> None:
        self._write(status, "application/json", json.dumps(content).encode())

    def _write(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def completion_of(body: Mapping[str, Any], message: Message) -> dict[str, Any]:
    """The policy's message as a chat completion."""
    calls = message.get("tool_calls") or ()
    content = message.get("content") or ""
    reply: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if calls:
        reply["tool_calls"] = [_call(call, number) for number, call in enumerate(calls)]
        reply["content"] = content or None
    end = "tool_calls" if calls else "stop"
    prompt_tokens = _tokens(body["messages"])
    completion_tokens = _tokens([reply])
    return {
        "id": f"chatcmpl-{secrets.token_hex(8)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": str(body.get("model") or "policy"),
        "choices": [{"index": 0, "message": reply, "finish_reason": end, "logprobs": None}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _call(call: Mapping[str, Any], number: int) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments or {}, ensure_ascii=False)
    return {
        "id": call.get("id") or f"call{number:05d}",
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    characters = sum(len(json.dumps(message, ensure_ascii=False)) for message in messages)
    return -(-characters // CHARACTERS_A_TOKEN)


def _core(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Of a tool's schema, what a chat template shows."""
    function = schema.get("function", schema)
    return {
        "name": function.get("name"),
        "description": function.get("description"),
        "parameters": function.get("parameters") or {},
    }


def _plain(message: Any) -> Message:
    """A message of a request in the form of chat templates. Raises `Refused`."""
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        raise Refused("every message must have a `role`")
    role = "system" if message["role"] == "developer" else message["role"]
    plain: Message = {"role": role, "content": _text(message.get("content"))}
    for key in ("name", "tool_call_id"):
        if message.get(key) is not None:
            plain[key] = message[key]
    if message.get("tool_calls"):
        plain["tool_calls"] = [_unpacked(call) for call in message["tool_calls"]]
    return plain


def _unpacked(call: Any) -> dict[str, Any]:
    try:
        function = call["function"]
        arguments = arguments_of(function)
        return {**call, "function": {"name": function["name"], "arguments": arguments}}
    except (KeyError, TypeError):
        raise Refused("a tool call must have a function with name and arguments") from None


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    if not all(isinstance(part, Mapping) and part.get("type") == "text" for part in parts):
        raise Refused(
            "the policy reads text only: a content must be a text, or parts of type text"
        )
    return "".join(str(part.get("text", "")) for part in parts)
