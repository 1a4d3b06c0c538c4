"""`rlcore env test` and `rlcore env play`: what they say of environments that are right and of such that are not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from rlcore import Task
from rlcore.cli.main import main
from rlcore.env.forms import EnvironmentSpec
from rlcore.env.kit import converse, examine, say
from rlcore.env.kit.faults import FAULTS, try_faults
from rlcore.env.kit.policies import call_of, odd_policies
from rlcore.env.pool import EnvironmentPool

FAULTY = Path(__file__).parent / "faulty.py"
NUMBER = """
import os, random, time
from rlcore.env import environment

@environment
def careful(answer: int, **columns):
    reply = "A number from 1 to 9?"
    for turn in range(4):
        said = yield reply
        guess = int(said) if said.isdecimal() and len(said) < 9 else 0
        if guess == answer:
            return 1.0 - 0.1 * turn
        reply = "higher" if guess < answer else "lower"
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

@environment
def strict(**columns):
    said = yield "Say open."
    if said != "open":
        return 0.0
    said = yield "And now?"
    return 1.0

@environment
def ready_made(**columns):
    return 1.0
    yield

@environment
def rewarded(**columns):
    said = yield "go", 0.5
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
    assert by_name["empty"]["turns"] == 4
    assert result["notes"] == []
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
    task = Task(id="t", prompt="")
    use = {"use": f"{file}:by_process"}
    with EnvironmentPool(EnvironmentSpec("rlcore.env.kit.faults:misbehaving", params=use), workers=1) as pool:
        turns = list(converse(pool, "e", task, say(["1", "2"]), max_turns=2))
        found = try_faults(pool, task, turns, deadline_s=5.0, names=("exception", "exit"))
    trials = {trial.name: trial for trial in found}
    assert trials["exception"].contained
    assert not trials["exit"].contained and trials["exit"].neighbours == 0


@pytest.mark.parametrize("name", ["unseeded", "by_process"])
def test_episodes_that_differ_are_one_problem(file: Path, name: str) -> None:
    result = examine(EnvironmentSpec(f"{file}:{name}"), Task(id="t", prompt=""), lambda: say(["1", "2"]))
    assert len(result.problems) == 1 and not result.faults
    assert [note for note in result.notes if note.startswith("no faults were tried")]


def test_one_that_nothing_gets_into_is_told(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["env", "test", f"{file}:strict"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "rebuilt after its worker was killed │ not tried" in out
    assert "note: no episode without a failure had a second turn" in out
    assert "--say or --policy" in out
    assert main(["env", "test", f"{file}:strict", "--say", "open", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["notes"] == []
    assert result["checks"]["rebuilt after its worker was killed"] == "equal"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ready_made", "the environment was done before the first completion"),
        ("rewarded", "the first observation has the reward 0.5, but there is no completion yet that it is for"),
    ],
)
def test_both_commands_say_what_training_says(
    file: Path, name: str, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("3\n"))
    assert main(["env", "play", f"{file}:{name}"]) == 1
    assert f"the episode failed: crashed ({reason}" in capsys.readouterr().out
    assert main(["env", "test", f"{file}:{name}"]) == 1
    out = capsys.readouterr().out
    assert f"problem: the episode cannot begin, and nothing else was tried: {reason}" in out
    assert "--task" not in out


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
    with pytest.raises(ValueError, match="the tool is called 'f', not 'F'"):
        call_of('F {"n": 2}', [schema])


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
