"""Several task sets as one, and rewards that are for some of its tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from rlcore import RewardSpec, Task
from rlcore.errors import RecipeError, RlcoreError
from rlcore.recipe.build import TaskSets
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows
from rlcore.scoring.scorer import Scorer
from tests.short_rollouts import short_rollout

RECIPE = """
name: two_skills
model:
  tokenizer: bytes
  config: {model_type: qwen2, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 2, max_position_embeddings: 96}
engine: {use: hf, max_length: 64}
tasks:
  sums: {use: arithmetic, size: 6}
  numbers: {use: countdown, size: 4}
  both: {use: joined, of: [sums, numbers]}
sampling: {max_tokens: 4}
rewards:
  - {use: exact, where: {set: sums}, weight: 10}
  - {use: countdown, where: {set: [numbers]}}
stages:
  - {kind: rl, tasks: both, steps: 1, groups_per_step: 10, group_size: 2}
  - {kind: eval, tasks: both}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "two_skills.yaml"
    path.write_text(RECIPE + f"run: {{folder: {tmp_path}/runs}}\n")
    return str(path)


def test_one_set_after_the_other(recipe: str) -> None:
    sets = TaskSets(load(recipe).tasks)
    both = sets["both"]
    assert len(both) == 10
    for position, task in enumerate(both):
        name, number = ("sums", position) if position < 6 else ("numbers", position - 6)
        part = sets[name][number]
        assert (task.id, task.category) == (f"{name}/{part.id}", name)
        assert (task.prompt, task.answer) == (part.prompt, part.answer)
        assert task.columns == {**part.columns, "set": name}
    assert list(both.column("category")) == [task.category for task in both]
    assert list(both.column("set")) == [task.columns["set"] for task in both]


def test_own_categories_stay(recipe: str) -> None:
    sets = TaskSets(load(recipe, ["tasks.both.category=own"]).tasks)
    own = [task.category for name in ("sums", "numbers") for task in sets[name]]
    assert [task.category for task in sets["both"]] == own
    column = sets["both"].column("category")
    assert column is None or list(column) == own


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("tasks.both.of=[sums, number]", "joined names 'number', which is no task set"),
        ("tasks.both.of=[]", "joined needs the names of different task sets"),
        ("tasks.both.of=[sums, sums]", "joined needs the names of different task sets"),
        ("tasks.both.of=[sums, both]", "the task set 'both' is made of itself"),
        (
            "rewards=[{use: exact, where: {set: sums}}]",
            "no reward is for the task 'numbers/",
        ),
        (
            "rewards=[{use: exact}, {use: information_gain, where: {set: sums}}]",
            "where has no effect on information_gain",
        ),
    ],
)
def test_mistakes_get_one_sentence(recipe: str, override: str, said: str) -> None:
    with pytest.raises(RlcoreError) as error:
        check(load(recipe, [override]))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_the_sets_of_a_cycle_can_be_asked_again(recipe: str) -> None:
    sets = TaskSets(load(recipe, ["tasks.both.of=[sums, both]"]).tasks)
    for _ in range(2):
        with pytest.raises(RecipeError, match="made of itself"):
            sets["both"]


def test_a_reward_is_asked_only_for_its_tasks() -> None:
    rewards = [
        RewardSpec("exact", weight=10, where={"set": "a"}),
        RewardSpec("exact", name="other", where={"set": ["b", "c"], "category": "x"}),
    ]
    tasks = [
        Task(id="0", prompt="", answer="1", columns={"set": "a"}),
        Task(id="1", prompt="", answer="1", category="x", columns={"set": "b"}),
        Task(id="2", prompt="", answer="1", category="y", columns={"set": "b"}),
    ]
    with Scorer(rewards, workers=1) as scorer:
        right, other, nobody = scorer.score([(task, [short_rollout("1")]) for task in tasks])
    assert (right[0].value, right[0].parts) == (10.0, {"exact": 1.0})
    assert (other[0].value, other[0].parts, other[0].passed()) == (1.0, {"other": 1.0}, True)
    assert nobody[0].value is None
    assert nobody[0].status == "unscorable"
    assert "no reward is for this task" in nobody[0].reason


def test_a_run_scores_each_set_by_its_own_reward(recipe: str) -> None:
    summary = train(load(recipe), console=Console(quiet=True))
    folder = RunFolder(Path(summary.run))
    rows = [row for file in sorted(folder.rollouts.rglob("*.jsonl")) for row in read_rows(file)]
    assert len(rows) == 20
    parts = {row["task"].partition("/")[0]: set(row["parts"]) for row in rows}
    assert parts == {"sums": {"exact"}, "numbers": {"countdown"}}
    (evaluation,) = read_rows(folder.path / "eval.jsonl")
    assert {"accuracy/sums", "accuracy/numbers"} <= evaluation.keys()
