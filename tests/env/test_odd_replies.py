"""What is no observation, and no tool, gets one sentence that names it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlcore import Task
from rlcore.env import Observation
from rlcore.env.forms import EnvironmentSpec, load_environment
from rlcore.env.kit.play import ask
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.environments.play import play
from rlcore.errors import EnvError, RecipeError
from tests.env import odd_replies

HERE = Path(__file__).parent
REPLIES = HERE / "odd_replies.py"
DONE = "the environment was done before the first completion"
REWARDED = (
    "the first observation has the reward {}, but there is no completion yet that it is for: "
    "give it with the reply to a completion"
)
SAID = {"role": "assistant", "content": "x"}


def answers(pool: EnvironmentPool, columns: dict[str, str]) -> list[Observation | Failed]:
    """To the beginning and to one completion."""
    task = Task(id="t", prompt="", columns=columns)
    turns = [ask(pool, "e", None, task=task, deadline_s=10.0)]
    if turns[0].goes_on:
        turns.append(ask(pool, "e", SAID, deadline_s=10.0))
    pool.forget("e")
    return [turn.answer for turn in turns]


@pytest.fixture(scope="module")
def pool() -> Iterator[EnvironmentPool]:
    with EnvironmentPool(EnvironmentSpec(f"{REPLIES}:Odd"), workers=1) as pool:
        yield pool


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        ("done", DONE),
        ("reward", REWARDED.format(5)),
        ("no number", "TypeError: the reward of the first observation is None; it must be a finite number"),
        ("assistant", "role 'assistant', which is the policy's own"),
    ],
)
def test_a_first_observation_neither_ends_nor_rewards(
    pool: EnvironmentPool, first: str, reason: str
) -> None:
    (answer,) = answers(pool, {"first": first})
    assert isinstance(answer, Failed) and answer.status == "crashed"
    assert reason in answer.reason
    if first in ("done", "reward"):
        assert answer.reason == reason


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        ("done text", "`done` of a turn is 'no'; it must be True or False"),
        ("restart text", "`restart` of a turn is 'yes'; it must be True or False"),
        ("reward text", "the reward of a turn is '1'; it must be a finite number"),
        ("reward None", "the reward of a turn is None; it must be a finite number"),
        ("metric text", "the metric 'a' of a turn is 'b'; it must be a finite number"),
        ("metrics None", "`metrics` of a turn is None; it must be a dict of numbers"),
        ("state", "`state` of a turn is {'a': 1}; it must be a text or None"),
        ("text", "`text` of a turn is 3; it must be a text or None"),
        ("assistant", "role 'assistant', which is the policy's own; use 'user', 'tool' or 'system'"),
    ],
)
def test_a_field_of_another_type_is_named(pool: EnvironmentPool, later: str, reason: str) -> None:
    answer = answers(pool, {"later": later})[-1]
    assert isinstance(answer, Failed) and reason in answer.reason


def test_numbers_of_numpy_are_numbers(pool: EnvironmentPool) -> None:
    answer = answers(pool, {"later": "numpy"})[-1]
    assert (answer.reward, answer.done, answer.metrics) == (0.5, True, {"n": 3.0})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("never_replies", DONE),
        ("rewards_at_once", REWARDED.format(0.5)),
        ("returns_text", "what environment 'returns_text' returned, the reward of the last turn, is 'good'"),
        ("NoReward", "the reward of a turn is None; it must be a finite number"),
    ],
)
def test_other_forms_get_the_same_sentences(name: str, reason: str) -> None:
    with EnvironmentPool(EnvironmentSpec(f"{REPLIES}:{name}"), workers=1) as pool:
        answer = answers(pool, {})[-1]
    assert isinstance(answer, Failed) and reason in answer.reason


def test_scripted_policies_are_told_too() -> None:
    task = Task(id="t", prompt="", columns={"first": "done"})
    with pytest.raises(EnvError, match=DONE):
        play(odd_replies.Odd(), task, lambda *_: "x", random.Random(0))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("yields", "the tool 'yields' is a generator function"),
        ("yields_later", "the tool 'yields_later' is a generator function"),
        ("three", "the tool 'three' annotates its argument 'a' with 3, which is no type"),
        ("builtin", "annotates its argument 'a' with <built-in function any>, which is no type"),
    ],
)
def test_a_tool_that_cannot_be_called_is_refused(name: str, reason: str) -> None:
    with pytest.raises(RecipeError, match=reason):
        load_environment(EnvironmentSpec(tools=[f"{HERE / 'odd_tools.py'}:{name}"]))


def test_types_of_typing_are_types() -> None:
    loaded = load_environment(EnvironmentSpec(tools=[f"{HERE / 'odd_tools.py'}:right"]))
    assert [schema["function"]["name"] for schema in loaded.schemas] == ["right"]
