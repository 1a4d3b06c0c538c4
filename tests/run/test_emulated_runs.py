"""The recipes of emulated fine-tuning: a large base model with the tuning of a small one is better than either."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.recipe.load import load
from rlcore.run.driver import train

METHODS = Path(__file__).parents[2] / "recipes/methods"
LARGE = (
    "name=emulated_large",
    "stages.tuned=null",
    "model.config.hidden_size=64",
    "model.config.intermediate_size=128",
    "stages.base.steps=250",
)


def accuracy(recipe: str, *overrides: str) -> float:
    return train(load(str(METHODS / recipe), list(overrides)), overwrite=True).accuracy_before


@pytest.mark.slow
def test_the_tuning_of_a_small_model_steers_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = accuracy("emulated_models.yaml")
    large = accuracy("emulated_models.yaml", *LARGE)
    alone = accuracy("emulated.yaml", "engine.differences=[]", "name=alone")
    assert alone == large < 0.6  # backwards in 40% of the words
    assert accuracy("emulated.yaml") > max(small, large) + 0.1, (small, large)
