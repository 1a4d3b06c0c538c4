"""Environments of verifiers 0.3, unchanged, in an interpreter of their own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rlcore.env import Observation
from rlcore.env.forms import EnvironmentSpec
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.errors import EnvError, TaskError
from rlcore.tasks.verifiers import verifiers
from rlcore.types import Message, Task

FILE = Path(__file__).parent / "verifiers_environments.py"
pytestmark = pytest.mark.slow

OWN_LOOP = """
import asyncio, json, sys, types
sys.path.insert(0, sys.argv[1])
import verifiers as vf
from verifiers.types import Response, ResponseMessage, ToolCall
import verifiers_environments

class Scripted(vf.Client):
    pass

Scripted.__abstractmethods__ = frozenset()

async def play(name, script):
    env = getattr(verifiers_environments, name)()
    client = Scripted(None)
    prompts = []

    async def get_response(prompt, **more):
        prompts.append([[m.role, m.content or ""] for m in prompt])
        said = script[len(prompts) - 1]
        calls = [ToolCall(id=c["id"], name=c["function"]["name"], arguments=json.dumps(c["function"]["arguments"]))
                 for c in said.get("tool_calls", [])]
        message = ResponseMessage(
            content=said["content"], tool_calls=calls or None, finish_reason="stop", is_truncated=False)
        return Response(id="x", created=0, model="m", message=message)

    client.get_response = get_response
    output = await env.run_rollout(env.get_dataset()[0], client, "m", {})
    return {"reward": output["reward"], "metrics": output["metrics"], "prompts": prompts}

async def main():
    return [await play(name, script) for name, script in json.loads(sys.argv[2])]

print(json.dumps(asyncio.run(main())))
"""


def call(**arguments: object) -> Message:
    function = {"name": "double", "arguments": arguments}
    called = {"id": "call00000", "type": "function", "function": function}
    return {"role": "assistant", "content": "", "tool_calls": [called]}


def said(text: str) -> Message:
    return {"role": "assistant", "content": text}


SCRIPTS = [
    ("tools", [call(x=3), said("6")]),
    ("tools", [call(x=-3), call(y=3), call(x=4), said("8")]),
    ("tools", [said("6")]),
    ("hunt", [said("1"), said("2"), said("3"), said("4")]),
    ("hunt", [said("1"), said("0")]),
    ("single", [said("4")]),
    ("single", [said("5")]),
]


@pytest.fixture(scope="module")
def python(interpreter: Callable[..., str]) -> str:
    return interpreter("verifiers==0.3.*")


def played(pool: EnvironmentPool, task: Task, script: list[Message]) -> tuple[list[Message], Observation | Failed]:
    """The whole conversation without the policy's own part, and the end."""
    shown = list(task.prompt)
    pool.reset("a", task, 0)
    for message in [*script, None]:
        answers: list[tuple[str, Observation | Failed]] = []
        end = time.monotonic() + 60
        while not answers and time.monotonic() < end:
            answers = pool.poll(1.0)
        ((_, answer),) = answers
        if isinstance(answer, Failed) or answer.done:
            return shown, answer
        shown += answer.reply
        assert message is not None
        shown.append(message)
        pool.step("a", message)
    raise AssertionError("the script is over and the episode is not")


def test_rewards_and_replies_are_those_of_its_own_loop(python: str) -> None:
    command = [python, "-c", OWN_LOOP, str(FILE.parent), json.dumps(SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    own_results = json.loads(done.stdout.strip().split("\n")[-1])
    for name in ("tools", "hunt", "single"):
        env = f"{FILE}:{name}"
        task = verifiers(env, python=python)[0]
        spec = EnvironmentSpec("verifiers", params={"env": env})
        with EnvironmentPool(spec, workers=1, deadline_s=30, python=python) as pool:
            for (of, script), own in zip(SCRIPTS, own_results, strict=True):
                if of != name:
                    continue
                shown, end = played(pool, task, script)
                assert isinstance(end, Observation)
                assert end.reward == own["reward"]
                assert end.metrics == own["metrics"]
                last = [[message["role"], message["content"]] for message in shown[:-1]]
                assert last == own["prompts"][-1]


def test_its_data_is_a_task_set(python: str) -> None:
    tasks = verifiers(f"{FILE}:tools", python=python, size=3)
    assert [task.answer for task in tasks] == ["6", "8", "10"]
    assert [message["role"] for message in tasks[0].prompt] == ["system", "user"]
    assert tasks[1].columns["verifiers_row"]["info"] == {"n": 4}
    (task,) = verifiers(f"{FILE}:single", python=python, split="eval")
    assert task.answer == "2"


def test_a_failed_reward_function_is_no_zero(python: str) -> None:
    params = {"env": f"{FILE}:hunt", "params": {"with_broken": True}}
    task = verifiers(f"{FILE}:hunt", python=python)[0]
    spec = EnvironmentSpec("verifiers", params=params)
    with EnvironmentPool(spec, workers=1, deadline_s=30, python=python) as pool:
        _, end = played(pool, task, [said("0")])
    assert isinstance(end, Failed) and "KeyError in broken: 'no score'" in end.reason


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        (f"{FILE}:grouped", "scores a whole group"),
        (f"{FILE}:another", "no classic environment of verifiers: packages of v1"),
        ("no-such-package", "verifiers cannot load 'no-such-package'"),
    ],
)
def test_what_cannot_be_run_gets_a_sentence(python: str, env: str, reason: str) -> None:
    with pytest.raises(EnvError, match=reason):
        EnvironmentPool(EnvironmentSpec("verifiers", params={"env": env}), workers=1, python=python)
    with pytest.raises(TaskError, match=reason):
        verifiers(env, python=python)
