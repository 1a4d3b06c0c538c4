"""Stages `sft` and `offline` with an order, an objective and a choice of tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlcore.errors import RlcoreError, RunError
from rlcore.learner.policy import load_policy
from rlcore.recipe.build import build_tasks
from rlcore.recipe.build_learner import build_encoder
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.run.evaluation import evaluations_without_gain
from rlcore.run.folder import read_rows
from tests.run.whole import finish, kill_when, run_folder, start, story, weights, write_recipe

ONE_STEP = ("stages.sft.steps=1", "stages.sft.batch_size=64", "stages.rl.steps=1", "run.checkpoint_every=1")
PHASES = (
    "tasks.demonstrations.terms=[2, 3, 4]",
    "stages.sft.curriculum={use: phases, phases: [{until: 3, weights: {2-terms: 1}}, {weights: {3-terms: 3, 4-terms: 1}}]}",
    "stages.sft.objective=dft",
)


def first_step(recipe: Path, *overrides: str) -> dict:
    finish(start("train", recipe, *ONE_STEP, *overrides))
    return read_rows(run_folder(recipe) / "metrics.jsonl")[0]


@pytest.mark.parametrize("train_on", ["completion", "all"])
def test_the_loss_is_the_likelihood_of_the_chosen_tokens(tmp_path: Path, train_on: str) -> None:
    recipe = write_recipe(tmp_path)
    row = first_step(recipe, f"stages.sft.train_on={train_on}")
    loaded = load(str(recipe))
    settings = loaded.model.model_dump()
    policy = load_policy(**settings, seed=loaded.seed, max_length=loaded.engine.max_length)
    policy.model.set_attn_implementation("sdpa")
    encoder = build_encoder(loaded, policy.tokenizer)
    losses = []
    for task in build_tasks(loaded.tasks["demonstrations"]):
        prompt, completion = encoder.encode(task), encoder.encode_demonstration(task)
        ids = torch.tensor([[*prompt, *completion]])
        logprobs = policy.model(ids).logits[0, :-1].double().log_softmax(-1)
        nll = -logprobs.gather(-1, ids[0, 1:, None])[:, 0]
        losses.append(nll if train_on == "all" else nll[len(prompt) - 1 :])
    expected = torch.cat(losses)
    assert row["loss"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert row["tokens/trained"] == len(expected)


def test_objectives_differ_and_the_default_is_sft(tmp_path: Path) -> None:
    made = {}
    for name in ("default", "sft", "dft"):
        folder = tmp_path / name
        folder.mkdir()
        recipe = write_recipe(folder)
        first_step(recipe, *([] if name == "default" else [f"stages.sft.objective={name}"]))
        made[name] = weights(run_folder(recipe))
    assert made["default"] == made["sft"] != made["dft"]


def test_kill_and_resume_inside_a_phase_are_exact(tmp_path: Path) -> None:
    stories = []
    for name in ("whole", "killed"):
        folder = tmp_path / name
        folder.mkdir()
        recipe = write_recipe(folder)
        if name == "killed":
            saved = run_folder(recipe) / "checkpoints/step_000002"
            kill_when(start("train", recipe, *PHASES), saved.exists)
        finish(start("train", recipe, *PHASES, "--resume"))
        stories.append(story(run_folder(recipe)))
    assert stories[0] == stories[1]
    rows = stories[0]["metrics"][:6]
    assert all(row["curriculum/2-terms/frac"] == 1 for row in rows[:3])
    assert all((row["curriculum/3-terms/frac"], row["curriculum/4-terms/frac"]) == (0.75, 0.25) for row in rows[3:])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("curriculum=sec", "stages.sft.curriculum: curriculum 'sec' learns from rewards"),
        ("curriculum={use: ucb, by: level}", "learns from rewards"),
        ("curriculum={use: cyclic, by: loss}", "it goes by the column 'loss'"),
        ("objective=opd", "stages.sft.objective: 'opd' reads a teacher"),
        ("objective=m2po", "compares the completions of a step"),
        ("train_on=prompt", "completion"),
    ],
)
def test_what_an_sft_stage_cannot_mean(tmp_path: Path, override: str, said: str) -> None:
    recipe = write_recipe(tmp_path)
    with pytest.raises(RlcoreError) as error:
        check(load(str(recipe), [f"stages.sft.{override}"]))
    assert said in str(error.value)


def test_an_objective_that_needs_the_policy_that_wrote(tmp_path: Path) -> None:
    from rlcore.run.driver import train

    recipe = load(str(write_recipe(tmp_path)), ["stages.sft.objective=grpo"])
    with pytest.raises(RunError, match="demonstrations have none: use sft or dft"):
        train(recipe)


def test_a_stage_ends_when_its_evaluations_do_not_improve(tmp_path: Path) -> None:
    """Nothing is learned at this rate: the first evaluation is the best, and two more end the stage."""
    recipe = write_recipe(tmp_path)
    keys = ("eval_every=2", "patience=2", "steps=20", "optim={lr: 1e-12}")
    overrides = [*(f"stages.sft.{key}" for key in keys), "stages.rl.steps=1"]
    finish(start("train", recipe, *overrides))
    rows = read_rows(run_folder(recipe) / "metrics.jsonl")
    assert [row["stage"] for row in rows] == ["sft"] * 6 + ["rl"]
    evals = [row["step"] for row in read_rows(run_folder(recipe) / "eval.jsonl") if row.get("during") == "sft"]
    assert evals == [2, 4, 6]
    finish(start("train", recipe, *overrides, "--resume"))
    assert len(read_rows(run_folder(recipe) / "metrics.jsonl")) == 7


@pytest.mark.parametrize(
    ("accuracies", "expected"), [([], 0), ([0.1], 0), ([0.1, 0.2, 0.2, 0.1], 2), ([0.3, 0.2, 0.4], 0), ([0.5, 0.5], 1)]
)
def test_evaluations_without_gain(accuracies: list[float], expected: int) -> None:
    of_stage = {"during": "rl", "stage_index": 2}
    rows = [{**of_stage, "eval_set": name, "accuracy": a} for a in accuracies for name in ("first", "second")]
    others = [{"during": "sft", "stage_index": 0, "eval_set": "first", "accuracy": 0.9}, {"stage_index": 3, "eval_set": "first"}]
    assert evaluations_without_gain([*others, *rows], "rl", 2) == expected
