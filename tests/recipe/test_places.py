"""What is wrong with a part of a recipe is said with its place in the recipe, for every kind of part."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RecipeError, RlcoreError
from rlcore.recipe.check import check
from rlcore.recipe.load import load

RECIPE = """
name: places
model: {config: {model_type: qwen2}, tokenizer: bytes}
tasks: {train: {use: arithmetic, size: 8}}
stages:
  - {kind: rl, tasks: train, steps: 1, rewards: [{use: exact}]}
  - {kind: rl, name: again, tasks: train, steps: 1, rewards: [{use: exact}], filter: zero_variance}
  - {kind: sample, name: drawn, tasks: train, rewards: [{use: exact}]}
  - {kind: offline, name: learned, data: drawn, steps: 1}
  - {kind: prefer, data: drawn, steps: 1}
  - {kind: eval, tasks: train, rewards: [{use: exact}]}
  - {kind: eval, tasks: train, rewards: [{use: exact}]}
"""


@pytest.mark.parametrize(
    ("override", "place"),
    [
        ("engine.use=vlm_local", "engine: there is no engine"),
        ("tasks.train={use: 'builtins:list'}", "tasks.train: task set"),
        (
            "tasks.train={use: dataset, path: /nowhere.jsonl, columns: {prompt: q}}",
            "tasks.train: ",
        ),
        ("stages.rl.rewards=[{use: exat}]", "stages.rl.rewards: there is no reward"),
        (
            "stages.again.rewards=[{use: exact, aftr: x}]",
            "stages.again.rewards: reward 'exact' has no parameter",
        ),
        (
            "stages.rl.rewards=[{use: information_gain, clos: x}]",
            "stages.rl.rewards: policy reward",
        ),
        ("stages.drawn.rewards=[{use: exat}]", "stages.drawn.rewards: there is no reward"),
        (
            "stages.6.rewards=[{use: exat}]",
            "stages.6.rewards: there is no reward",
        ),  # two stages are called eval
        (
            "stages.rl.aggregate={use: ranked, right: exact, score: judge}",
            "stages.rl.aggregate: aggregate 'ranked' asks for a reward 'judge'",
        ),
        (
            "stages.rl.curriculum={use: sec, alfa: 1}",
            "stages.rl.curriculum: curriculum 'sec' has no parameter 'alfa'",
        ),
        (
            "stages.rl.filter={use: pass_rate, lo: 1}",
            "stages.rl.filter: filter 'pass_rate' has no parameter 'lo'",
        ),
        (
            "stages.again.prefilter={use: greso, by: levl}",
            "stages.again.prefilter: it goes by the column 'levl', which task arithmetic/train/0/0 has not",
        ),
        (
            "stages.rl.budget={use: exponential, strt: 1}",
            "stages.rl.budget: budget 'exponential' has no parameter 'strt'",
        ),
        (
            "stages.rl.follow_up={use: guess_masks, x: 1}",
            "stages.rl.follow_up: follow-up 'guess_masks'",
        ),
        (
            "stages.rl.objective={use: grpo, clip: 1}",
            "stages.rl.objective: objective 'grpo' has no parameter 'clip'",
        ),
        ("stages.learned.objective=sfd", "stages.learned.objective: there is no objective 'sfd'"),
        ("stages.rl.credit.baseline={use: mean, x: 1}", "stages.rl.credit: "),
        (
            "stages.rl.credit.steps={scheme: pervert}",
            "stages.rl.credit.steps: there is no credit scheme",
        ),
        ("stages.rl.credit.steps={split: lines}", "stages.rl.credit.steps: there is no split"),
        (
            "stages.learned.credit={steps: {scheme: vin}}",
            "stages.learned.credit: there is no credit scheme 'vin'",
        ),
        ("stages.drawn.steps={split: lines}", "stages.drawn.steps: there is no split"),
        ("stages.rl.credit.demonstrations=gated", "stages.rl.credit.demonstrations: it is 'gated'"),
        (
            "stages.rl.objective=hpt",
            "stages.rl.credit.demonstrations: the stage's objective learns from demonstrations",
        ),
        ("stages.prefer.data=drawm", "stages.prefer.data is 'drawm'"),
    ],
)
def test_the_place_comes_first(tmp_path: Path, override: str, place: str) -> None:
    (tmp_path / "places.yaml").write_text(RECIPE)
    with pytest.raises(RlcoreError) as error:
        check(load(str(tmp_path / "places.yaml"), [override]))
    assert str(error.value).startswith(place), error.value


def test_a_parent_is_looked_up_beside_the_recipe_that_extends_it(tmp_path: Path) -> None:
    """With or without the ending of its file, in another folder, and through two levels."""
    (tmp_path / "base.yaml").write_text("extends: quickstart\nname: base\n")
    (tmp_path / "sub").mkdir()
    for parent in ("../base.yaml", "../base"):
        (tmp_path / "sub/middle.yaml").write_text(f"extends: {parent}\nseed: 5\n")
        (tmp_path / "sub/top.yaml").write_text("extends: middle.yaml\nname: top\n")
        top = load(str(tmp_path / "sub/top.yaml"))
        assert (top.name, top.seed) == ("top", 5)
    (tmp_path / "sub/middle.yaml").write_text("extends: ../nothing.yaml\n")
    with pytest.raises(RecipeError, match="middle.yaml extends '../nothing.yaml', which is not in its folder"):
        load(str(tmp_path / "sub/top.yaml"))


def test_a_folder_that_is_no_run_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="holds no recipe.yaml: name a recipe or a run folder"):
        load(str(tmp_path))
    with pytest.raises(RecipeError) as raised:
        load("runs/zzzzqqqq")
    assert "nearest" not in str(raised.value)
    with pytest.raises(RecipeError, match="nearest: quickstart"):
        load("quickstrat")
