"""Names in a recipe that stand for nothing: the sentence says what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RlcoreError
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.recipe.model_sections import may_be_model

RECIPE = """
name: names
model: {config: {model_type: qwen2}, tokenizer: bytes}
engine: {use: hf}
tasks: {train: {use: arithmetic, size: 8}}
stages:
  - {kind: rl, tasks: train, steps: 60, groups_per_step: 8, group_size: 4, rewards: [{use: exact}]}
"""


def facts(tmp_path: Path, *overrides: str) -> list[str]:
    path = tmp_path / "names.yaml"
    path.write_text(RECIPE)
    return check(load(str(path), [f"stages.rl.{override}" for override in overrides]))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["credit.baseline=critik"], "did you mean 'critic'"),
        (["credit.baseline=mean_globl"], "did you mean 'mean_global'"),
        (["credit.baseline=xyz"], "mean_batch_std"),
        (["group_size=1"], "reinforce_pp, ppo"),
        (["method=ppo", "critic={path: ./nowhere}"], "stages.rl.critic.path: there is no model at './nowhere'"),
        (["method=opd", "teacher={model: ~/nowhere}"], "there is no model at '~/nowhere'"),
        (["method=opd", "teacher={model: policy, base: ./nowhere}", "objective={divergence: implicit}"], "there is no model at"),
        (["replay={size: 2}"], "size keeps only 2"),
    ],
)
def test_the_sentence(tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(RlcoreError) as error:
        facts(tmp_path, *overrides)
    assert said in str(error.value)


def test_the_plan_says_which_pieces_are_not_the_methods(tmp_path: Path) -> None:
    assert "rl: method ppo, with objective grpo (ppo: ppo)" in facts(tmp_path, "method=ppo", "objective=grpo")
    assert not any("method" in fact for fact in facts(tmp_path, "method=ppo"))


@pytest.mark.parametrize("path", ["Qwen/Qwen3-4B", "a/b.c", "HuggingFaceTB/SmolLM2-135M-Instruct", "/tmp"])
def test_what_may_be_a_model(path: str) -> None:
    assert may_be_model(path)


@pytest.mark.parametrize("path", ["nowhere", "./nowhere", "../x", "~/nowhere", "/no/where", "a/b/c", ""])
def test_what_can_be_none(path: str) -> None:
    assert not may_be_model(path)
