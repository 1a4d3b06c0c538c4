"""`rlcore env test` and `rlcore env play`: what they say of environments that are right and of such that are not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from rlcore import Task
from rlcore.cli.main import main
from rlcore.env.forms import EnvironmentSpec
from rlcore.env.kit import examine, say
from rlcore.env.kit.faults import FAULTS
from rlcore.env.kit.policies import call_of, odd_policies

FAULTY = Path(__file__).parent / "faulty.py"
NUMBER = """
import os, random, time
from rlcore.env import environment

@environment
def careful(answer: int, **columns):
    said = yield "A number from 1 to 9?"
    for turn in range(4):
        guess = int(said) if said.isdecimal() and len(said) < 9 else 0
        if guess == answer:
            return 1.0 - 0.1 * turn
        said = yield "higher" if guess < answer else "lower"
    return 0.0

@environment
def careless(**columns):
    said = yield "A number?"
    said = yield str(int(said))
    return 1.0

@environment
def unseeded(**columns):
    said = yield "A number?"
    said = yield str(random.random())
    return 1.0

@environment
def by_process(**columns):
    said = yield "A number?"
    said = yield str(os.getpid())
    said = yield "and?"
    return 1.0
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("env") / "my_env.py"
    path.write_text(NUMBER)
    return path


def test_an_environment_that_is_right_passes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "test", f"{file}:careful", "--task", '{"answer": 7}', "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["problems"] == []
    by_name = {row["name"]: row for row in result["episodes"]}
    assert by_name["a number"] == {"name": "a number", "status": "done", "reward": 1.0, "turns": 1, "reason": ""}
    assert by_name["empty"]["turns"] == 5
    assert [trial["name"] for trial in result["faults"]] == list(FAULTS)
    assert all(trial["contained"] and trial["neighbours"] == 2 for trial in result["faults"])
    assert set(result["checks"].values()) >= {"equal"}


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("careless", "empty: crashed in turn 1 (ValueError: invalid literal for int()"),
        ("unseeded", "two episodes of the same task, seed and completions differ"),
        ("by_process", "an episode was not rebuilt equally in another process"),
    ],
)
def test_one_that_is_not_is_told_why(file: Path, name: str, problem: str) -> None:
    result = examine(EnvironmentSpec(f"{file}:{name}"), Task(id="t", prompt=""), faults=())
    assert any(said.startswith(problem) for said in result.problems), result.problems


def test_neighbours_that_cannot_be_rebuilt_are_counted(file: Path) -> None:
    result = examine(
        EnvironmentSpec(f"{file}:by_process"),
        Task(id="t", prompt=""),
        lambda: say(["1", "2"]),
        faults=("exception", "exit"),
    )
    trials = {trial.name: trial for trial in result.faults}
    assert trials["exception"].contained
    assert not trials["exit"].contained and trials["exit"].neighbours == 0
    assert any("the fault 'exit' is not contained" in said for said in result.problems)


def test_one_that_cannot_begin_is_asked_for_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "test", "number_guessing", "--task", '{"answer": 7}']) == 1
    out = capsys.readouterr().out
    assert "problem: the episode cannot begin" in out and "asks for 'low'" in out


def test_odd_calls_of_each_tool() -> None:
    schema = {
        "type": "function",
        "function": {"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}},
    }
    policies = odd_policies([schema])
    messages = [make()([]) for make in policies.values()]
    arguments = [m["tool_calls"][0]["function"]["arguments"] for m in messages if "tool_calls" in m]
    assert arguments == [{"n": 1}, {}, {"n": {"unexpected": [None]}}, {}]
    assert sum("malformed" in message for message in messages) == 1
    assert call_of('f {"n": 2}', [schema])["tool_calls"][0]["function"]["arguments"] == {"n": 2}
    assert call_of("g", [schema]) is None
    with pytest.raises(ValueError):
        call_of("f [1]", [schema])


def test_a_person_is_the_policy(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("3\n7\n"))
    assert main(["env", "play", f"{file}:careful", "--task", '{"prompt": "Guess.", "answer": 7}']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "Guess.",
        "A number from 1 to 9?",
        "higher",
        "[reward 0.9, together 0.9]",
        "the episode is over",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("x\n"))
    assert main(["env", "play", f"{file}:careless"]) == 1
    assert "the episode failed: crashed (ValueError" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--task", "{"], "--task is no JSON"),
        (["--task", "[1]"], "--task must be a JSON object"),
        (["--task", '{"prompt": 1}'], "prompt must be a text or a list of messages"),
        (["--policy", "no.py:f"], "there is no policy file"),
        (["n"], "the parameter 'n' has no '='"),
    ],
)
def test_bad_arguments_get_a_sentence(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["env", "test", f"{FAULTY}:Counter", *arguments]) == 2
    assert reason in capsys.readouterr().err
