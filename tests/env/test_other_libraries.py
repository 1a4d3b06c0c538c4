"""GEM, TextArena and OpenEnv, each in an interpreter of its own."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlcore.env import Observation
from rlcore.env.forms import EnvironmentSpec
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.errors import EnvError
from rlcore.types import Message, Task

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def answer(pool: EnvironmentPool, key: str) -> Observation | Failed:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for who, what in pool.poll(1.0):
            if who == key:
                return what
    raise AssertionError("no answer")


def said(text: str) -> Message:
    return {"role": "assistant", "content": text}


def pool_of(use: str, python: str, **params: object) -> EnvironmentPool:
    spec = EnvironmentSpec(use, params=params)
    return EnvironmentPool(spec, workers=1, deadline_s=60, python=python)


def by_halves(pool: EnvironmentPool, keys: list[str], seed: int, highest: int, form: str) -> list[list[object]]:
    """Episodes side by side in which each guesses the number by halving; what was said in each."""
    logs: dict[str, list[object]] = {key: [] for key in keys}
    bounds = {key: (1, highest) for key in keys}
    for key in keys:
        pool.reset(key, Task(id=key, prompt=""), seed)
        logs[key].append(answer(pool, key))
    for _ in range(10):
        for key in keys:
            if isinstance(logs[key][-1], Observation) and logs[key][-1].done:
                continue
            low, high = bounds[key]
            guess = (low + high) // 2
            pool.step(key, said(form.format(guess)))
            reply = answer(pool, key)
            logs[key].append(reply)
            assert isinstance(reply, Observation)
            if not reply.done:
                text = reply.reply if isinstance(reply.reply, str) else ""
                bounds[key] = (low, guess - 1) if "lower" in text else (guess + 1, high)
    return [logs[key] for key in keys]


@pytest.mark.parametrize(
    ("use", "package", "env", "highest", "form"),
    [
        ("gem", "gem-llm==0.1.0", "game:GuessTheNumber-v0-hard", 50, "\\boxed{{{}}}"),
        ("textarena", "textarena==0.7.4", "GuessTheNumber-v0", 20, "[{}]"),
    ],
)
def test_games(
    interpreter: Callable[..., str], use: str, package: str, env: str, highest: int, form: str
) -> None:
    """Two equal episodes and another one, interleaved: each has its own random numbers."""
    with pool_of(use, interpreter(package, "pydantic"), env=env) as pool:
        first, second = by_halves(pool, ["a", "b"], 3, highest, form)
        assert first == second and first[-1].reward == 1.0
        (other,) = by_halves(pool, ["c"], 7, highest, form)
        assert other[-1].reward == 1.0 and other != first


def test_what_these_libraries_do_not_have_gets_a_sentence(interpreter: Callable[..., str]) -> None:
    with pytest.raises(EnvError, match="gem cannot make 'game:No-v0'"):
        pool_of("gem", interpreter("gem-llm==0.1.0", "pydantic"), env="game:No-v0")
    with pytest.raises(EnvError, match="games for several are not supported"):
        pool_of("textarena", interpreter("textarena==0.7.4", "pydantic"), env="TicTacToe-v0")
    with pytest.raises(EnvError, match="gem cannot be imported .* pip install gem-llm"):
        EnvironmentPool(EnvironmentSpec("gem", params={"env": "x"}), workers=1)


@pytest.fixture(scope="module")
def server(interpreter: Callable[..., str]) -> Iterator[tuple[str, str]]:
    """The interpreter with OpenEnv, and the URL of a server."""
    python = interpreter("openenv-core==0.3.0", "transformers", "jinja2")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([python, str(HERE / "openenv_server.py"), str(port)])
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            assert process.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.2)
        yield python, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_openenv_by_its_generic_client(server: tuple[str, str]) -> None:
    python, url = server
    number = random.Random(3).randint(1, 9)
    with pool_of("openenv", python, url=url, action="text", shown="hint") as pool:
        for key in "ab":
            pool.reset(key, Task(id=key, prompt=""), 3)
            assert answer(pool, key) == Observation("a number from 1 to 9?")
        pool.step("a", said("0"))
        assert answer(pool, "a") == Observation("higher")
        for key, reward in (("a", 0.5), ("b", 1.0)):
            pool.step(key, said(str(number)))
            end = answer(pool, key)
            assert isinstance(end, Observation) and end.done and end.reward == reward


def test_openenv_wrapped_for_trl(server: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    python, url = server
    monkeypatch.setenv("OPENENV_URL", url)
    spec = EnvironmentSpec(f"{HERE / 'openenv_tools.py'}:GuessTools")
    number = random.Random(3).randint(1, 9)
    with EnvironmentPool(spec, workers=1, deadline_s=60, python=python) as pool:
        assert [tool["function"]["name"] for tool in pool.tools] == ["guess"]
        pool.reset("a", Task(id="a", prompt="Play."), 3)
        assert answer(pool, "a") == Observation("a number from 1 to 9?")
        function = {"name": "guess", "arguments": {"number": number}}
        calls = [{"id": "call00000", "type": "function", "function": function}]
        pool.step("a", {**said(""), "tool_calls": calls})
        reply = answer(pool, "a")
        assert reply.reply[0]["content"] == "right"
        pool.step("a", said("done"))
        assert answer(pool, "a").reward == 1.0
