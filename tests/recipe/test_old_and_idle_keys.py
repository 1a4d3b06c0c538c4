"""Keys of version 1 name their successors; keys without effect, and short forms with overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlcore.errors import RlcoreError
from rlcore.recipe.check import check
from rlcore.recipe.keys import find_keys
from rlcore.recipe.load import load
from rlcore.stages.prefer import PreferStage

RECIPE = """
name: keys
model: {config: {model_type: qwen2}, tokenizer: bytes}
engine: {use: hf}
tasks: {train: {use: arithmetic, size: 8}}
stages:
  - {kind: rl, tasks: train, steps: 2, rewards: [{use: exact}], prefilter: {use: greso, by: category}, filter: zero_variance,
     curriculum: sec}
  - {kind: sample, name: drawn, tasks: train, rewards: [{use: exact}]}
  - {kind: offline, data: drawn, steps: 2}
  - {kind: eval, tasks: train, rewards: [{use: exact}]}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "keys.yaml"
    path.write_text(RECIPE)
    return str(path)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sampler.max_length=64", "it is now 'engine'"),
        ("stages.rl.gate=zero_variance", "it is now 'filter'"),
        ("stages.rl.refill.rounds=2", "it is now 'resample'"),
        ("stages.rl.skip=category", "it is now 'prefilter'"),
        ("stages.rl.mix=sum", "it is now 'aggregate'"),
        ("stages.rl.second_round=guess_masks", "it is now 'follow_up'"),
        ("stages.rl.reward_deadline_s=2.0", "it is now 'scoring.deadline_s'"),
        ("stages.rl.credit.arm_weights={a: 1.0}", "it is now 'category_weights'"),
        ("stages.rl.prefilter=category", "prefilter: {use: greso, by: category}"),
        ("stages.rl.prefilter={by: category}", "prefilter: {use: greso, by: category}"),
        ("stages.rl.credit.steps={values: siblings}", "the key 'values' is now 'use'"),
        ("stages.eval.answers=2", "it is now 'num_samples'"),
        ("engine.kind=hf", "the key 'kind' is now 'use'"),
        ("stages.rl.optim.rex_d=0.5", "it is now 'schedule: {use: rex"),
        ("tasks.train={kind: arithmetic}", "the key 'kind' is now 'use'"),
        ("stages.rl.rewards=[{use: exact, params: {after: x}}]", "now stand beside 'use'"),
        ("stages.rl.objective={preset: grpo}", "{use: grpo"),
    ],
)
def test_an_old_key_names_the_new_one(recipe: str, override: str, said: str) -> None:
    with pytest.raises(RlcoreError) as error:
        check(load(recipe, [override]))
    assert said in str(error.value), error.value


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["stages.rl.filter=null", "stages.rl.prefilter=null", "stages.rl.resample.max_gen_batches=3"], "resample"),
        (["stages.rl.filter=null"], "prefilter"),
        (["stages.rl.budget_text='{prompt} {budget}'"], "budget_text"),
        (["stages.eval.budget_text='{prompt} {budget}'"], "budget_text"),
        (["stages.rl.credit.threshold=0.5"], "threshold"),
        (["stages.rl.minibatch_by=sequence"], "minibatch_by"),
        (["stages.rl.old_logprobs=trainer"], "old_logprobs"),
        (["stages.offline.credit.normalise_parts=true"], "normalise_parts"),
        (["stages.offline.credit.demonstrations=mixed"], "demonstrations"),
        (["engine.memory_gb=1.0"], "memory_gb"),
        (["engine.prefix_caching=false"], "prefix_caching"),
        (["engine.sync_tolerance=0.1", "engine.sync=adapter"], "engine.sync"),
        (["stages.rl.optim.schedule={use: cosine, decay_shape: sqrt}"], "decay_shape"),
        (["stages.rl.optim.schedule={use: wsd, d: 0.4}"], "no parameter 'd'"),
        (["optim={lr: 1e-3}", "stages.rl.optim.lr=1.0", "stages.offline.optim.lr=1.0"], "optim.lr"),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_refused(recipe: str, overrides: list[str], said: str) -> None:
    with pytest.raises(RlcoreError) as error:
        check(load(recipe, overrides))
    assert said in str(error.value), error.value


def test_an_override_of_a_short_form_keeps_what_it_says(recipe: str) -> None:
    loaded = load(recipe, ["stages.rl.prefilter.rate=0.2", "stages.rl.curriculum.alpha=0.25"])
    assert loaded.stages[0].prefilter == {"use": "greso", "by": "category", "rate": 0.2}
    assert loaded.stages[0].curriculum == {"use": "sec", "alpha": 0.25}


def test_a_child_recipe_adds_to_a_short_form(recipe: str, tmp_path: Path) -> None:
    (tmp_path / "child.yaml").write_text(
        "extends: keys\nengine: {max_length: 512}\nstages.rl.prefilter.rate: 0.2\n"
    )
    assert load(str(tmp_path / "child.yaml")).engine.use == "hf"


@pytest.mark.parametrize(
    ("processes", "micro_batch", "expected"),
    [(1, None, (10, 1)), (2, None, (5, 1)), (5, 1, (1, 2)), (4, None, "4 processes"), (2, 2, "5 pairs")],
)  # fmt: skip
def test_pairs_are_divided_exactly(
    processes: int, micro_batch: int | None, expected: tuple[int, int] | str
) -> None:
    keys = {"kind": "prefer", "data": "-", "steps": 60, "batch_size": 10}
    stage = PreferStage(**keys, micro_batch=micro_batch)
    if isinstance(expected, tuple):
        assert stage.micro_batches(processes) == expected
        return
    with pytest.raises(RlcoreError, match=expected):
        stage.micro_batches(processes)


def test_the_parameters_of_a_part_are_those_of_its_signature() -> None:
    keys = {key.key: key for key in find_keys("curriculum.sec")}
    assert keys["curriculum.sec"].meaning
    assert keys["curriculum.sec.alpha"].default
    assert not {"curriculum.sec.seed", "curriculum.sec.tasks"} & keys.keys()
    assert "schedule.wsd.decay_shape" in {key.key for key in find_keys("schedule.wsd")}
    assert "objective.dapo.clip_high" in {key.key for key in find_keys("objective.dapo")}
    assert "tasks.arithmetic.terms" in {key.key for key in find_keys("tasks.arithmetic")}
    assert "rewards.exact.after" in {key.key for key in find_keys("rewards.exact")}
