"""Agent programs that speak OpenAI's protocol, as environments."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlcore import Task
from rlcore.env import Observation
from rlcore.env.forms import EnvironmentSpec, load_environment
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.errors import RecipeError

AGENTS = Path(__file__).parent / "my_agents.py"
pytest.importorskip("openai")
Policy = Callable[[str, Observation], object]


def task(**columns: object) -> Task:
    return Task(id="t", prompt="Guess.", columns=columns)


def answer(pool: EnvironmentPool, key: str, limit_s: float = 30.0) -> Observation | Failed:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        for who, what in pool.poll(1.0):
            if who == key:
                return what
    raise AssertionError("no answer")


def said(text: str, **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": text, **more}


@pytest.fixture(scope="module")
def agents() -> Iterator[Callable[..., EnvironmentPool]]:
    """Pools by the agent's name, kept: each start imports the client."""
    pools: dict[str, EnvironmentPool] = {}

    def pool_of(name: str, **params: str) -> EnvironmentPool:
        if name not in pools:
            spec = EnvironmentSpec("agent", params={"function": f"{AGENTS}:{name}", **params})
            pools[name] = EnvironmentPool(spec, workers=1, deadline_s=20.0)
        return pools[name]

    yield pool_of
    for pool in pools.values():
        pool.close()


@pytest.fixture
def dispatch(agents: Callable[..., EnvironmentPool]) -> EnvironmentPool:
    """One pool for all functions that need no schemas: the task names the function."""
    return agents("dispatch")


def test_a_growing_chat_is_one_sequence(dispatch: EnvironmentPool) -> None:
    dispatch.reset("a", task(agent="guesser", number=7), 0)
    assert answer(dispatch, "a") == Observation([])  # the prompt is the task's own
    dispatch.step("a", said("3"))
    assert answer(dispatch, "a") == Observation([{"role": "user", "content": "wrong, again"}])
    dispatch.step("a", said("7"))
    assert answer(dispatch, "a") == Observation([], reward=0.9, done=True)


def test_what_a_program_returns_beside_its_reward(dispatch: EnvironmentPool) -> None:
    dispatch.reset("b", task(agent="guesser", number=7), 0)
    for _ in range(5):
        answer(dispatch, "b")
        dispatch.step("b", said("1"))
    end = answer(dispatch, "b")
    assert end == Observation([], done=True, text="gave up", metrics={"turns": 5.0})


def test_another_history_is_a_further_sequence(dispatch: EnvironmentPool) -> None:
    dispatch.reset("c", task(agent="two_chats"), 0)
    plan = [{"role": "system", "content": "Plan."}, {"role": "user", "content": "Guess."}]
    assert answer(dispatch, "c") == Observation(plan, restart=True)
    dispatch.step("c", said("sleep"))
    fresh = [{"role": "user", "content": "Do: sleep"}]
    assert answer(dispatch, "c") == Observation(fresh, restart=True)
    dispatch.step("c", said("done"))
    assert answer(dispatch, "c").reward == 1.0


def test_tools_of_the_program(agents: Callable[..., EnvironmentPool]) -> None:
    pool = agents("with_tools", schemas=f"{AGENTS}:TOOLS")
    assert [tool["function"]["name"] for tool in pool.tools] == ["add"]
    pool.reset("d", task(), 0)
    answer(pool, "d")
    call = {"id": "call00000", "type": "function"}
    call["function"] = {"name": "add", "arguments": {"a": 2, "b": 3}}
    pool.step("d", said("", tool_calls=[call]))
    reply = answer(pool, "d")
    assert reply.reply == [{"role": "tool", "content": "5", "tool_call_id": "call00000"}]
    pool.step("d", said("5"))
    assert answer(pool, "d") == Observation([], reward=1.0, done=True)


@pytest.mark.parametrize("name", ["streamed", "asynchronous"])
def test_other_clients(dispatch: EnvironmentPool, name: str) -> None:
    dispatch.reset(name, task(agent=name), 0)
    assert answer(dispatch, name) == Observation([])
    dispatch.step(name, said("yes"))
    assert answer(dispatch, name).reward == 1.0


def test_requests_at_once_are_answered_one_after_the_other(dispatch: EnvironmentPool) -> None:
    dispatch.reset("e", task(agent="at_once"), 0)
    prompts = []
    for _ in range(3):
        observation = answer(dispatch, "e")
        prompts.append(observation.reply[-1]["content"])
        assert observation.restart
        dispatch.step("e", said("x"))
    assert sorted(prompts) == ["0", "1", "2"]
    assert answer(dispatch, "e").reward == 3.0


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ({"n": 2}, "`n` must be 1"),
        ({"stop": ["\n"]}, "`stop` would need other tokens"),
        ({"response_format": {"type": "json_object"}}, "`response_format` would need"),
        ({"tool_choice": "required"}, "`tool_choice` must be auto"),
        ({"tools": ["f"]}, "no attribute"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "do not show the tool 'f'"),
    ],
)
def test_what_would_need_other_tokens_is_refused(
    dispatch: EnvironmentPool, option: dict[str, object], reason: str
) -> None:
    key = str(option)
    dispatch.reset(key, task(agent="refused", option=option), 0)
    failed = answer(dispatch, key)
    assert isinstance(failed, Failed) and failed.status == "crashed"
    assert "BadRequestError" in failed.reason and reason in failed.reason


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("silent", "ended without asking"),
        ("exits", "raised SystemExit: 3"),
        ("nothing", "there is no agent"),
    ],
)
def test_programs_that_fail(dispatch: EnvironmentPool, name: str, reason: str) -> None:
    dispatch.reset(name, task(agent=name), 0)
    first = answer(dispatch, name)
    if isinstance(first, Observation):
        dispatch.step(name, said("x"))
        first = answer(dispatch, name)
    assert isinstance(first, Failed) and first.status == "crashed" and reason in first.reason


def test_programs_that_hang_cost_only_themselves() -> None:
    """A loop is interrupted; a thread that cannot be is ended with its worker, whose other episodes are replayed."""
    spec = EnvironmentSpec("agent", params={"function": f"{AGENTS}:dispatch"})
    with EnvironmentPool(spec, workers=1, deadline_s=1.5) as pool:
        (pid,) = pool.pids
        for key, name in (("good", "guesser"), ("bad", "loops")):
            pool.reset(key, task(agent=name, number=7), 0)
            answer(pool, key)
        pool.step("bad", said("x"))
        assert answer(pool, "bad") == Failed("timed-out", "no reply within 1.5 s")
        assert pool.pids == [pid]
        pool.reset("worse", task(agent="holds_on"), 0)
        answer(pool, "worse")
        pool.step("worse", said("x"))
        failed = answer(pool, "worse")
        assert isinstance(failed, Failed) and failed.status == "timed-out"
        pool.step("good", said("7"))
        assert answer(pool, "good").reward == 1.0
        assert pool.pids != [pid]


def test_a_forgotten_program_is_stopped(tmp_path: Path) -> None:
    """Its waiting request fails, and its process ends."""
    program = tmp_path / "program.py"
    program.write_text(
        "import json, os, pathlib, sys, time, urllib.request\n"
        "task = json.load(sys.stdin)\n"
        "pathlib.Path(task['file']).write_text(str(os.getpid()))\n"
        "body = {'messages': [{'role': 'user', 'content': task['prompt']}]}\n"
        "url = os.environ['OPENAI_BASE_URL'] + '/chat/completions'\n"
        "reply = json.load(urllib.request.urlopen(url, json.dumps(body).encode()))\n"
        "text = reply['choices'][0]['message']['content']\n"
        "print('thinking')\n"
        "sys.exit(2) if text == 'fail' else None\n"
        "print(json.dumps({'reward': float(text), 'metrics': {'turns': 1}}))\n"
    )
    spec = EnvironmentSpec("agent", params={"command": f"{sys.executable} {program}"})
    with EnvironmentPool(spec, workers=1, deadline_s=20.0) as pool:
        for key in ("ended", "fails", "left"):
            pool.reset(key, task(file=str(tmp_path / key)), 0)
            answer(pool, key)
        pool.step("ended", said("0.5"))
        end = answer(pool, "ended")
        assert end == Observation([], reward=0.5, done=True, metrics={"turns": 1.0})
        pool.step("fails", said("fail"))
        assert answer(pool, "fails").reason.startswith("RuntimeError: the agent's command ended with exit code 2")
        running = Path("/proc") / (tmp_path / "left").read_text()
        assert running.exists()
        pool.forget("left")
        deadline = time.monotonic() + 10
        while running.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not running.exists()


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({}, "needs either `function` or `command`"),
        ({"function": "a.py:b", "command": "c"}, "needs either `function` or `command`"),
        ({"function": f"{AGENTS}:ges"}, "has no 'ges'"),
        ({"function": f"{AGENTS}:TOOLS"}, "is a list, not a function"),
        ({"function": f"{AGENTS}:guesser", "schemas": f"{AGENTS}:ask"}, "is no list of tools"),
    ],
)
def test_bad_parameters_get_a_sentence(params: dict[str, str], reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_environment(EnvironmentSpec("agent", params=params))


def test_continuations_by_message() -> None:
    from rlcore.env.adapters.program import continuation

    shown = [{"role": "user", "content": "q"}, said("a")]
    more = {"role": "user", "content": "b"}
    assert continuation(shown, [*shown, more]) == [more]
    assert continuation(shown, shown) == []
    assert continuation(shown, shown[:1]) is None
    assert continuation(shown, [shown[0], said("other"), more]) is None
    assert continuation(shown, [*shown, said("of somebody else")]) is None
    call = {"id": "1", "function": {"name": "f", "arguments": {"x": 1}}}
    text = {"id": "2", "function": {"name": "f", "arguments": json.dumps({"x": 1})}}
    called, packed = said("", tool_calls=[call]), {**said(""), "content": None, "tool_calls": [text]}
    assert continuation([called], [packed, more]) == [more]
    other = {"id": "1", "function": {"name": "f", "arguments": {"x": 2}}}
    assert continuation([called], [said("", tool_calls=[other]), more]) is None
