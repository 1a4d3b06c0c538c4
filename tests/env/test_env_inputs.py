"""What `rlcore env` takes on its command line: parameters, tools, and tasks."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from rlcore.cli.main import main

ENVIRONMENT = """
from rlcore import Task
from rlcore.env import environment

def shelves(size=3):
    return [Task(id=f"s/{i}", prompt=f"Shelf {i}.", columns={"shelf": i}) for i in range(size)]

def broken():
    raise LookupError("no data")

@environment
def guess(shelf: int = 0, guesses: int = 1, **columns):
    for turn in range(guesses):
        said = yield f"Shelf {shelf}, guess {turn + 1} of {guesses}."
    return float(said == "x")

class Counter:
    def __init__(self, step: int = 2):
        self.step = step

    def __call__(self, times: int) -> int:
        '''Count up.

        Args:
            times: How often.
        '''
        return times * self.step
"""
CORPUS = ["Owls hunt at night and sleep by day, in barns and hollow trees.", "Hens sleep at night and look for corn and worms during the day."]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "shelf.py"
    path.write_text(ENVIRONMENT)
    return path


def played(
    said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.StringIO(said))
    assert main(["env", "play", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_parameters_may_follow_options(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use = f"{file}:guess"
    for words in ([use, "--task", "{}", "guesses=2"], [use, "guesses=2", "--task", "{}"]):
        lines = played("a\nx\n", monkeypatch, capsys, *words)
        assert lines[0] == "Shelf 0, guess 1 of 2." and lines[-1] == "the episode is over"
    words = ["env", "test", use, "shelf=4", "--max-turns", "3", "guesses=2", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["episodes"][0]["turns"] == 2


def test_tools_are_written_as_in_a_recipe(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counter = f"{{use: '{file}:Counter', step: 5}}"
    said = 'Counter {"times": 2}\ncounter {"times": 2}\ndone\n'
    for tools in ([f"[finish, {counter}]"], ["finish", counter]):
        lines = played(said, monkeypatch, capsys, "-", "--tools", *tools)
        assert "the call cannot be read: the tool is called 'counter', not 'Counter'" in lines
        assert "counter: 10" in lines
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": row}) + "\n" for row in CORPUS))
    search = f"{{use: search, corpus: {corpus}, k: 1}}"
    lines = played('search {"query": "owls"}\n', monkeypatch, capsys, "-", "--tools", search)
    assert CORPUS[0] in "\n".join(lines)
    assert main(["env", "test", "-", "--tools", counter, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["environment"] == f"{file}:Counter" and len(result["faults"]) == 9


def test_a_task_of_a_set(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = played("58\n", monkeypatch, capsys, "number_guessing", "--tasks", "number_guessing")
    assert lines[0] == "55-69:" and lines[1].endswith("-69:")
    words = ["number_guessing", "--tasks", "{use: number_guessing, sizes: [3], seed: 1}", "--number", "5"]
    low, high = played("x\n", monkeypatch, capsys, *words)[0].rstrip(":").split("-")
    assert int(high) - int(low) == 2
    words = [f"{file}:guess", "--tasks", f"{file}:shelves", "--number", "2"]
    assert played("x\n", monkeypatch, capsys, *words)[:2] == ["Shelf 2.", "Shelf 2, guess 1 of 1."]
    assert main(["env", "test", "number_guessing", "--tasks", "number_guessing", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--tools", "[1]"], "--tools has 1; write a name, or {use: name, parameter: value}"),
        (["--tools", "{k: 1}"], "--tools has {'k': 1}; write a name"),
        (["--tools", "[finish"], "--tools"),
        (["--tasks", "[facts]"], "--tasks is ['facts']; write a name, or {use: name"),
        (["--tasks", "no_such_set"], "there is no task set 'no_such_set'"),
        (["--tasks", "FILE:broken"], "LookupError: no data"),
        (["--tasks", "FILE:shelves", "--number", "3"], "--number is 3, but the task set has 3, from 0 on"),
        (["--number", "3"], "name the set with --tasks"),
        (["--max-turns", "2", "junk"], "the parameter 'junk' has no '='"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence(
    file: Path, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("FILE", str(file)) for word in words]
    assert main(["env", "test", f"{file}:guess", *words]) == 2
    assert reason in capsys.readouterr().err
