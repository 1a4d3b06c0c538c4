"""Sections at the top of a recipe: stages that leave them out take them, and may change a part."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RecipeError
from rlcore.recipe.load import dump, load

RECIPE = """
name: shared
model: {config: {model_type: qwen2}, tokenizer: bytes}
tasks: {train: {use: arithmetic}}
rewards: [{use: exact}]
sampling: {max_tokens: 32, stop: [";"]}
scoring: {workers: 1}
optim: {lr: 1e-3, warmup_steps: 4}
stages:
  - {kind: sft, tasks: train, steps: 3}
  - {kind: rl, tasks: train, steps: 3, optim: {lr: 1e-4}, sampling: {temperature: 0.5}}
  - {kind: eval, tasks: train, rewards: [{use: math}], scoring: {deadline_s: 2.0}}
"""


@pytest.fixture
def shared(tmp_path: Path) -> str:
    path = tmp_path / "shared.yaml"
    path.write_text(RECIPE)
    return str(path)


def test_a_stage_takes_what_it_leaves_out(shared: str) -> None:
    sft, rl, evaluation = load(shared).stages
    assert (sft.optim.lr, sft.optim.warmup_steps) == (1e-3, 4)
    assert (rl.optim.lr, rl.optim.warmup_steps) == (1e-4, 4)
    assert (rl.sampling.temperature, rl.sampling.max_tokens, rl.sampling.stop) == (0.5, 32, [";"])
    assert [reward.use for reward in rl.rewards] == ["exact"]
    assert [reward.use for reward in evaluation.rewards] == ["math"]
    assert (evaluation.scoring.workers, evaluation.scoring.deadline_s) == (1, 2.0)


def test_an_override_of_a_shared_section_reaches_the_stages(shared: str) -> None:
    recipe = load(shared, ["sampling.max_tokens=48", "optim.warmup_steps=1"])
    assert recipe.stages[2].sampling.max_tokens == 48
    assert recipe.stages[1].optim.warmup_steps == 1


def test_the_resolved_recipe_loads_as_the_same(shared: str, tmp_path: Path) -> None:
    recipe = load(shared)
    (tmp_path / "again.yaml").write_text(dump(recipe))
    again = load(str(tmp_path / "again.yaml"))
    assert again.stages == recipe.stages
    assert dump(again) == dump(recipe)


def test_a_mistake_in_a_shared_section_is_named_once(shared: str) -> None:
    with pytest.raises(RecipeError) as error:
        load(shared, ["optim.lrr=1e-3"])
    assert "unknown key 'optim.lrr'; did you mean 'lr'?" in str(error.value)
    assert "stages" not in str(error.value)


def test_a_shared_section_that_no_stage_has_is_refused(shared: str) -> None:
    with pytest.raises(RecipeError, match="optim has no effect here"):
        load(shared, ["stages=[{kind: eval, tasks: train}]"])


def test_a_shared_section_that_every_stage_overrides_is_refused(shared: str) -> None:
    stages = "[{kind: eval, tasks: train}, {kind: sft, tasks: train, steps: 1, optim: {lr: 1.0}}]"
    load(shared, [f"stages={stages}", "optim={warmup_steps: 2}"])
    with pytest.raises(RecipeError, match="optim.lr has no effect here: every stage sets"):
        load(shared, [f"stages={stages}", "optim={lr: 2.0}"])
