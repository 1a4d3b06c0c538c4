"""TRL's tools and environment classes, unchanged: the same replies and rewards as in TRL's own loop."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlcore.env.base import Observation
from rlcore.env.forms import EnvironmentSpec, Episode, load_environment
from rlcore.types import Message
from tests.env import trl_environments

FILE = Path(trl_environments.__file__)


def called(*calls: tuple[str, dict[str, Any]]) -> Message:
    listed = [
        {"type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments in calls
    ]
    return {"role": "assistant", "content": "", "tool_calls": listed}


END = {"role": "assistant", "content": "done"}
FUNCTIONS = [
    [called(("multiply", {"a": 3, "b": 4})), END],
    [called(("divide", {"a": 1, "b": 0})), called(("divide", {"a": 1, "b": 4})), END],
    [called(("multiply", {"a": 3})), END],
    [called(("multiply", {"a": 3, "b": 4, "c": 5})), END],
    [called(("multiply", {"a": "x", "b": 2})), END],
    [called(("subtract", {"a": 3, "b": 4})), END],
    [called(("fetch", {"key": "one"})), called(("fetch", {"key": "two"})), END],
    [called(("multiply", {"a": 2, "b": 2}), ("divide", {"a": 2, "b": 2}), ("multiply", {})), END],
    [END],
]
ENVIRONMENTS = [
    [called(("increment", {"step": 3})), called(("increment", {"step": 4})), END],
    [called(("increment", {"step": 0})), called(("look", {})), END],
    [called(("_private", {})), called(("get_reward", {})), called(("reset", {})), END],
    [called(("increment", {"step": 2}), ("increment", {"step": 2})), END],
    [END],
]
ROW = {"prompt": [{"role": "user", "content": "Count."}], "goal": 7}


@pytest.fixture(scope="module")
def async_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def in_trl(
    script: list[Message], tools: list[Any], loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> list[Message]:
    """What TRL's own loop makes of a policy that says this; only the model and the tokens are left out."""
    from trl.trainer import grpo_trainer

    trainer = grpo_trainer.GRPOTrainer.__new__(grpo_trainer.GRPOTrainer)
    is_async = inspect.iscoroutinefunction
    settings = {
        "max_tool_calling_iterations": 8,
        "max_completion_length": 1000,
        "use_vllm": False,
        "_is_vlm": False,
        "environment_factories": None,
        "tools": tools,
        "async_loop": loop,
        "processing_class": None,
        "model": SimpleNamespace(config=SimpleNamespace(max_position_embeddings=10_000)),
        "_sync_tool_dicts": [{tool.__name__: tool for tool in tools if not is_async(tool)}],
        "_async_tool_dicts": [{tool.__name__: tool for tool in tools if is_async(tool)}],
    }
    for name, value in settings.items():
        trainer.__dict__[name] = value
    said = iter(enumerate(script[1:], start=1))
    trainer.__dict__["_get_tool_suffix_ids"] = lambda messages: [0]
    trainer.__dict__["_generate_single_turn"] = lambda *_, **__: ([[next(said)[0]]], None)
    monkeypatch.setattr(grpo_trainer, "parse_response", lambda _, ids, **__: script[ids[0]])
    monkeypatch.setattr(type(trainer), "_tokenizer", None, raising=False)
    _, completions, *_ = trainer._tool_call_loop(
        [list(ROW["prompt"])], [[1]], [[0]], [[script[0]]], None, None, None
    )
    return completions[0]


def here(name: str, tools: tuple[str, ...], script: list[Message]) -> tuple[list[Message], list[Observation]]:
    """The conversation, and what the environment said."""
    use = f"{FILE}:{name}" if name else ""
    episode = Episode(load_environment(EnvironmentSpec(use, [f"{FILE}:{tool}" for tool in tools])))

    async def play() -> tuple[list[Message], list[Observation]]:
        observations = [await episode.reset({**ROW, "answer": None, "seed": 0})]
        conversation = []
        for message in script:
            conversation.append(message)
            observation = await episode.step(message)
            observations.append(observation)
            if observation.done:
                break
            conversation += observation.reply
        return conversation, observations

    return asyncio.run(play())


@pytest.mark.parametrize("script", FUNCTIONS)
def test_functions(
    script: list[Message], async_loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("multiply", "divide", "fetch")
    tools = [getattr(trl_environments, name) for name in names]
    conversation, observations = here("", names, script)
    assert conversation == in_trl(script, tools, async_loop, monkeypatch)
    assert observations[-1].done and observations[-1].reward == 0.0


@pytest.mark.parametrize("script", ENVIRONMENTS)
def test_environment_classes(
    script: list[Message], async_loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = trl_environments.CounterEnv()
    first = environment.reset(**ROW)
    conversation, observations = here("CounterEnv", (), script)
    tools = [environment.increment, environment.look]
    assert conversation == in_trl(script, tools, async_loop, monkeypatch)
    assert observations[0] == Observation(first)
    assert observations[-1].reward == environment.get_reward()


def test_a_reset_that_names_its_columns() -> None:
    loaded = load_environment(EnvironmentSpec(f"{FILE}:Strict"))
    row = {"prompt": "p", "word": "tree", "answer": None, "seed": 0, "category": "all"}

    async def play() -> Observation:
        episode = Episode(loaded)
        assert await episode.reset(row) == Observation()
        return await episode.step(called(("say", {})))

    assert asyncio.run(play()).reply[0]["content"] == "tree"
