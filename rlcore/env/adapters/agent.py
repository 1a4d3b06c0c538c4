"""Agent programs that speak OpenAI's protocol, as environments.

    env: {use: agent, function: "my_agent.py:solve"}           def solve(base_url, question, answer, **columns) -> reward
    env: {use: agent, command: "python my_agent.py"}           OPENAI_BASE_URL, OPENAI_API_KEY; the task as JSON on stdin

The program calls the endpoint as often as it likes, with any client; the policy answers. Its reward is what the function returns, or the
last line that the command prints: a number, or {"reward": number, "text": what reward functions see, "metrics": {...}}.
A function runs in a thread of the worker, beside other episodes; a command in a process of its own. Where a worker died, its
episodes are replayed: a program must ask equally when it is answered equally, so it must not ask several things at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rlcore.env.adapters.endpoint import Endpoint
from rlcore.env.adapters.program import Ask, Program
from rlcore.env.base import Observation, task_arguments
from rlcore.env.forms import Loaded, adapter
from rlcore.errors import RecipeError
from rlcore.plugin import find
from rlcore.types.plain import plain

KEY = "rlcore"
"""The API key that programs are given; the secret is in the URL."""
LONGEST_OUTPUT = 65_536
"""Bytes kept of a command's output, from its end."""


@adapter
def agent(*, function: str = "", command: str = "", schemas: str = "") -> Loaded:
    """A program that asks the policy through an OpenAI-compatible endpoint.

    function: `file.py:name`, called with `base_url` and the task's columns by name. command: a shell command. schemas: where the list
    of tools is that the program sends with its requests, `file.py:TOOLS`; the policy's prompts then show them.
    """
    if bool(function) == bool(command):
        raise RecipeError("the agent needs either `function` or `command`")
    tools = _tools(schemas)
    endpoint = Endpoint(tools)
    _reach_without_proxy()
    if function:
        called = find(function, {}, what="agent")
        if not callable(called):
            raise RecipeError(
                f"agent {function!r} is a {type(called).__name__}, not a function"
            )
        run = partial(_run_function, endpoint, called)
    else:
        run = partial(_run_command, endpoint, command)
    return Loaded("agent", lambda: Program(run), tools)


def _tools(schemas: str) -> Sequence[Mapping[str, Any]]:
    if not schemas:
        return ()
    tools = find(schemas, {}, what="list of tools")
    if not isinstance(tools, list | tuple) or not all(isinstance(t, Mapping) for t in tools):
        raise RecipeError(f"{schemas!r} is no list of tools in the form of OpenAI's protocol")
    return tools


def _reach_without_proxy() -> None:
    os.environ.setdefault("OPENAI_API_KEY", KEY)
    for name in ("NO_PROXY", "no_proxy"):
        before = os.environ.get(name)
        os.environ[name] = f"{before},127.0.0.1" if before else "127.0.0.1"


async def _run_function(
    endpoint: Endpoint, function: Callable[..., Any], ask: Ask, task: Mapping[str, Any]
) -> Observation:
    url = endpoint.open(ask)
    try:
        arguments = task_arguments(function, {**task, "base_url": url})
        call = partial(_called, function, arguments)
        return outcome(await _in_thread(call, partial(endpoint.close, url)))
    finally:
        endpoint.close(url)


def _called(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    result = function(**arguments)
    return asyncio.run(result) if asyncio.iscoroutine(result) else result


async def _in_thread(call: Callable[[], Any], stop: Callable[[], None]) -> Any:
    """The result of a call in a thread of its own. Cancelled, it stops what the thread may wait for, interrupts it, and waits for its end."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def work() -> None:
        result: Any = None
        problem: Exception | None = None
        try:
            result = call()
        except Exception as error:
            problem = error
        except BaseException as error:
            # One of these would end the worker's event loop.
            problem = RuntimeError(f"the agent raised {type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, problem)

    def settle(result: Any, problem: Exception | None) -> None:
        if done.done():
            return
        if isinstance(problem, StopIteration):
            problem = RuntimeError("the agent raised StopIteration")
        if problem is not None:
            done.set_exception(problem)
        else:
            done.set_result(result)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        stop()
        interrupt = ctypes.pythonapi.PyThreadState_SetAsyncExc
        interrupt(ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit))
        await asyncio.wait({done})
        done.exception()
        raise


async def _run_command(
    endpoint: Endpoint, command: str, ask: Ask, task: Mapping[str, Any]
) -> Observation:
    url = endpoint.open(ask)
    process = await asyncio.create_subprocess_shell(
        command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY},
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        text = json.dumps(plain(task)).encode()
        _, output = await asyncio.gather(
            _write(process.stdin, text), _last_bytes(process.stdout)
        )
        code = await process.wait()
    finally:
        endpoint.close(url)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if code:
        raise RuntimeError(f"the agent's command ended with exit code {code}")
    lines = output.decode(errors="replace").split("\n")
    return outcome(_parsed(next((line for line in reversed(lines) if line.strip()), "")))


async def _write(stdin: asyncio.StreamWriter, text: bytes) -> None:
    with contextlib.suppress(OSError):  # a program need not read its task
        stdin.write(text)
        await stdin.drain()
    stdin.close()


async def _last_bytes(stdout: asyncio.StreamReader) -> bytes:
    tail = b""
    while piece := await stdout.read(65_536):
        tail = (tail + piece)[-LONGEST_OUTPUT:]
    return tail


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        raise ValueError(
            f"the last line of the agent's output is {line[:80]!r}; it must be its reward"
        ) from None


def outcome(result: Any) -> Observation:
    """What a program returned, as the last observation. Raises `TypeError`."""
    text: str | None = None
    metrics: Mapping[str, float] = {}
    if isinstance(result, Mapping) and "reward" in result:
        text, metrics = result.get("text"), result.get("metrics") or {}
        result = result["reward"]
    if isinstance(result, str) or not hasattr(result, "__float__"):
        raise TypeError(
            f"the agent returned a {type(result).__name__}; it must return its reward, a number or {{'reward': number}}"
        )
    return Observation(done=True, reward=float(result), text=text, metrics=metrics)
