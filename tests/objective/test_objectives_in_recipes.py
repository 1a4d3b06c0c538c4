"""Objectives that need more than their preset, run by the real driver: demonstrations, whitening, corrections, more terms."""

from pathlib import Path

import pytest

from rlcore.errors import RecipeError
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from tests.run.whole import run_folder, write_recipe

STAGE = (
    "stages=[{kind: rl, tasks: demonstrations, steps: 2, groups_per_step: 4, group_size: 4, sampling: {max_tokens: 8}, "
    "rewards: [{use: '%s'}], optim: {lr: 1e-3}, %s}]"
)
ODD = """from rlcore import reward

@reward
def odd(completion: str, **columns) -> float:
    return float(sum(map(ord, completion)) % 2)
"""


def recipe(folder: Path, settings: str, reward: str = "odd"):
    """The tiny recipe with one stage; `odd` is a reward that an untrained model earns half of the time."""
    (folder / "odd.py").write_text(ODD)
    use = f"{folder / 'odd.py'}:odd" if reward == "odd" else reward
    return load(str(write_recipe(folder)), [STAGE % (use, settings)])


@pytest.mark.parametrize(
    ("settings", "losses"),
    [
        ("objective: hpt, credit: {demonstrations: gated}", {"policy", "demonstration"}),
        ("objective: luffy, credit: {demonstrations: mixed}", {"policy", "demonstration"}),
        ("objective: {use: reinforce_pp, kl: 0.01, kl_kind: reward, entropy: 0.01}, credit: {baseline: global}",
         {"policy", "entropy"}),
        ("objective: {use: grpo, kl: 0.01, correction: {kind: sequence_mask, high: 3.0}}",
         {"policy", "kl"}),
        ("objective: reinforce, credit: {baseline: mean, zero_variance: keep, exponential: 0.5}", set()),
    ],
    ids="hpt luffy reinforce_pp corrected awr".split(),
)  # fmt: skip
def test_a_run(tmp_path: Path, settings, losses):
    train(recipe(tmp_path, settings, reward="exact" if "hpt" in settings else "odd"))
    rows = read_rows(run_folder(tmp_path / "tiny.yaml") / "metrics.jsonl")
    assert len(rows) == 2 and all(
        row["tokens/trained"] > 0 and row["grad_norm"] > 0 for row in rows
    )
    assert {key.removeprefix("loss/") for key in rows[0] if key.startswith("loss/")} == losses
    if "hpt" in settings:  # an untrained model solves nothing
        assert all(row["loss/policy"] == 0 and row["loss/demonstration"] > 0 for row in rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("objective: hpt", "set credit.demonstrations to gated, mixed, all or solved"),
        ("objective: grpo, credit: {demonstrations: gated}", "does not learn from them: use hpt"),
        ("objective: {use: grpo, correction: {kind: tis, high: 2}}", "no correction 'tis'"),
    ],
)
def test_what_does_not_fit_together_is_said_before_a_model_loads(tmp_path: Path, settings, message):
    with pytest.raises(RecipeError, match=message):
        check(recipe(tmp_path, settings))


def test_a_run_with_truncated_sampling_has_no_mismatch_with_its_engine(tmp_path: Path):
    """Through generator, credit and learner: what sampling kept is replayed exactly."""
    made = recipe(tmp_path, "method: dr_grpo")
    stage = made.stages[0]
    sampling = stage.sampling.model_copy(update={"top_p": 0.7, "min_p": 0.01})
    stage = stage.model_copy(update={"sampling": sampling})
    train(made.model_copy(update={"stages": [stage]}))
    folder = run_folder(tmp_path / "tiny.yaml")
    for row in read_rows(folder / "metrics.jsonl"):
        assert row["mismatch/ratio_max"] == pytest.approx(1, abs=1e-3)
        assert row["grad_norm"] > 0
    rollouts = [row for path in folder.glob("rollouts/**/*.jsonl") for row in read_rows(path)]
    kept = [ids for row in rollouts for ids in row["support"] if ids is not None]
    assert kept and max(map(len, kept)) < 260


def test_vllm_with_top_p_alone_is_refused_before_a_model_loads(tmp_path: Path):
    (tmp_path / "odd.py").write_text(ODD)
    stage = STAGE.replace("{max_tokens: 8}", "{max_tokens: 8, top_p: 0.9%s}")

    def loaded(more: str):
        overrides = [stage % (more, f"{tmp_path / 'odd.py'}:odd", "method: grpo")]
        return load(str(write_recipe(tmp_path)), [*overrides, "engine.use=vllm_local"])

    with pytest.raises(RecipeError, match="top_p or min_p without top_k"):
        loaded("")
    assert loaded(", top_k: 50").stages[0].sampling.top_k == 50
