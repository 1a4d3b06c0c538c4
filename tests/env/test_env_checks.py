"""What an environment, its tasks and its rewards ask of each other is said by the check; what fails before a completion is no 0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlcore.errors import RlcoreError
from rlcore.recipe.check import check, check_demonstrations
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.rules import unscored
from rlcore.types import Task
from tests.env.test_multi_turn_runs import rollouts, write_recipe
from tests.run.whole import run_folder

OWN = '''
from rlcore.env import Observation, environment


@environment
def asks_more(answer, colour, **columns):
    yield


@environment
def parameter(answer, bonus=0.0, **columns):
    yield


@environment
def sometimes(answer, prompt, **columns):
    """Even answers fail before the first completion, and every other task has the reward 1."""
    if answer % 2 == 0:
        raise ValueError("no such game")
    yield
    return 1.0


@environment
def says_once(answer, **columns):
    said = yield
    said = yield Observation("+", text="SEEN")
    return 0.0


class NoReward:
    """As TRL's classes whose reward function reads an attribute."""

    reward = 0.0

    def reset(self, **task):
        return None

    def press(self, key: str) -> str:
        """
        Presses a key.

        Args:
            key: The key.
        """
        self.reward = 1.0
        return "pressed"


class WithParameter:
    """A parameter of the constructor hides no column of `reset`."""

    def __init__(self, answer: int = 3):
        self.limit = answer

    def reset(self, answer, **task):
        return None

    def step(self, message):
        return Observation(done=True, reward=float(self.limit))
'''


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "own.py").write_text(OWN)
    return write_recipe(tmp_path)


def env(name: str, **keys: object) -> str:
    listed = "".join(f", {key}: {value}" for key, value in keys.items())
    return f"env={{use: own.py:{name}, workers: 1, max_turns: 4{listed}}}"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([env("asks_more")], "stages.before.env: the environment asks for 'colour', which is neither a column"),
        ([env("parameter", answer=3)], "answer is a parameter here and a column of the task set eval_set, which would be hidden"),
        ([env("NoReward"), "prompt.format=chat"], "the reward `environment` would always be 0"),
        ([env("NoReward")], "the environment has tools, which only a chat prompt can show"),
        ([env("parameter", history="template")], "env.history is template, which needs prompt.format chat"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(
    options: list[str], sentence: str, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    with pytest.raises(RlcoreError) as error:
        check(load(str(recipe), options))
    assert sentence in str(error.value)


def test_parameters_that_hide_nothing_are_fine(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    for own in (env("parameter", bonus=1.0), env("WithParameter", answer=1)):
        check(load(str(recipe), [own]))


def test_an_episode_that_fails_before_its_first_completion_counts_in_no_number(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not cut at a deadline: the accuracy is that of the others."""
    monkeypatch.chdir(recipe.parent)
    train(load(str(recipe), [env("sometimes"), "stages.rl.credit.turns=null", "stages.rl.steps=1", "tasks.eval_set.size=16"]))
    folder = RunFolder(run_folder(recipe))
    evaluation = folder.evaluations()[0]
    kept = [row for path in folder.evaluation_files(evaluation) for row in read_rows(path)]
    failed = [row for row in kept if row["status"] == "crashed"]
    assert 0 < len(failed) < len(kept)
    assert evaluation["accuracy"] == 1.0 and evaluation["completions/frac_unfinished"] == 0
    assert all(row["score"] is None for row in failed)
    assert evaluation["env/turns/mean"] == pytest.approx(1 - len(failed) / len(kept))


def test_a_failed_environment_is_not_blamed_on_the_reward() -> None:
    assert unscored({"reward/frac_unscored": 0.7, "env/frac_failed": 0.6}) is None
    assert unscored({"reward/frac_unscored": 0.7, "env/frac_failed": 0.0}) is not None


def test_the_text_of_an_earlier_turn_is_not_that_of_the_last(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    train(load(str(recipe), [env("says_once"), "stages.rl.credit.turns=null", "stages.rl.steps=1"]))
    rows = [row for row in rollouts(recipe) if len(row["episode"]["rewards"]) == 2]
    assert rows and all(row["text"] != "SEEN" for row in rows)


def test_trl_s_environments_argument_says_what_to_write(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    Path("judge.py").write_text("def judge(completions, environments, **kwargs):\n    return [1.0] * len(completions)\n")
    with pytest.raises(RlcoreError, match="give the class a method get_reward, and the stage the reward `environment`"):
        train(load(str(recipe), ["rewards=[judge.py:judge]", "stages.rl.credit.turns=null"]))


def test_a_key_for_the_environments_of_stages_says_where_it_belongs(recipe: Path) -> None:
    own = [f"stages.{name}.env={{use: own.py:sometimes}}" for name in ("before", "rl", "after")]
    with pytest.raises(RlcoreError, match=r"this section names no environment; .* stages.NAME.env.max_turns=..."):
        load(str(recipe), ["env={max_turns: 2}", *own])


def test_demonstrations_are_played(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guessing game's own hold; with replies of another game the first difference is said."""
    loaded, tasks = load(str(recipe)), {}
    check(loaded, tasks)
    [said] = check_demonstrations(loaded, tasks)
    assert said == "demonstrations of demonstrations with the environment guess: 3 played, all replies are the environment's"

    def changed(task: Task) -> Task:
        messages = [m | {"content": "hot"} if m["role"] == "user" else m for m in task.demonstration]
        return replace(task, demonstration=messages)

    tasks["demonstrations"] = list(map(changed, tasks["demonstrations"]))
    [said] = check_demonstrations(loaded, tasks)
    assert "differ; that of digit/" in said and "it has ['hot'], and the environment said ['" in said


@pytest.mark.parametrize("name", ["number_guessing", "calculator", "facts", "grid_world"])
def test_those_of_ready_environments_hold(name: str) -> None:
    loaded, tasks = load(f"environments/{name}"), {}
    check(loaded, tasks)
    [said] = check_demonstrations(loaded, tasks)
    assert "3 played, all replies are the environment's" in said
