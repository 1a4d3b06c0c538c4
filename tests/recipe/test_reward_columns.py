"""A column that a reward asks for and no task has is said before anything is generated."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RecipeError
from rlcore.recipe.check import check
from rlcore.recipe.load import load

REWARDS = '''
from rlcore import reward

@reward
def coloured(completion, answer, colour, shade=0, **columns):
    return float(colour in completion)

@reward
class Strict:
    def __init__(self, *, colour="red"):
        self.colour = colour

    def __call__(self, completion, numbers, **columns):
        return float(self.colour in completion)

@reward
def brief(completion, budget, max_tokens):
    return float(len(completion) < budget)

def batch(prompts, completions, answer, colour, log_metric, **columns):
    return [0.0] * len(completions)

def verifiers(completion, state, info, colour):
    return 0.0
'''

RECIPE = """
name: columns
model: {{config: {{model_type: qwen2}}, tokenizer: bytes}}
tasks:
  sums: {{use: arithmetic, size: 8}}
  games: {{use: countdown, size: 8}}
  both: {{use: joined, of: [sums, games]}}
stages:
  - {{kind: rl, tasks: both, steps: 1, group_size: 4, rewards: {rewards}}}
"""


def checked(folder: Path, rewards: str, *overrides: str) -> list[str]:
    (folder / "own.py").write_text(REWARDS)
    path = folder / "columns.yaml"
    path.write_text(RECIPE.format(rewards=rewards))
    return check(load(str(path), overrides))


@pytest.mark.parametrize("name", ["coloured", "batch", "verifiers"])
def test_what_no_task_has_is_said_with_its_place(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        checked(tmp_path, f"[{{use: 'own.py:{name}'}}]")
    said = str(error.value)
    assert said.startswith(f"stages.rl.rewards: reward '{name}' asks for 'colour', which is neither a column")
    assert "of both has columns " in said and "\n" not in said


def test_what_some_tasks_lack_is_said_and_where_leaves_them_out(tmp_path: Path) -> None:
    """`numbers` is a column of the games alone."""
    strict = "{use: 'own.py:Strict', where: {set: games}}"
    with pytest.raises(RecipeError, match="'Strict' asks for 'numbers'.* the task 'sums/"):
        checked(tmp_path, "[{use: 'own.py:Strict'}]")
    assert checked(tmp_path, f"[{strict}, {{use: exact, where: {{set: sums}}}}]")


def test_a_parameter_or_a_budget_gives_it(tmp_path: Path) -> None:
    assert checked(tmp_path, "[{use: 'own.py:coloured', colour: blue}]")
    assert checked(tmp_path, "[{use: 'own.py:brief'}]", "stages.rl.budget=40")
    with pytest.raises(RecipeError, match="'brief' asks for 'budget'"):
        checked(tmp_path, "[{use: 'own.py:brief'}]")
    with pytest.raises(RecipeError, match="'environments'.* give the class a method get_reward"):
        (tmp_path / "trl.py").write_text("def reward(environments, completions, **columns):\n    return []\n")
        checked(tmp_path, f"[{{use: '{tmp_path}/trl.py:reward'}}]")
