"""Stage `sft` with orders that go by the losses of its demonstrations: Skill-It and Aioli."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from rlcore.learner.policy import load_policy
from rlcore.recipe.build import build_order, build_tasks
from rlcore.recipe.build_learner import build_encoder
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.run.seeds import derive
from tests.run.test_order_runs import SUMS, recipe_in
from tests.run.whole import weights

TERMS = ("tasks.sums.terms=[2, 3]", "stages.sft.optim.schedule=constant")
SKILL_IT = "stages.sft.curriculum={use: skill_it, every: 2, eta: 3, graph: {2-terms: {3-terms: 0.5}}}"
MIXTURE = "{use: mixture, weights: {2-terms: 1, 3-terms: 1}}"
AIOLI = "stages.sft.curriculum={use: aioli, every: 5, sweeps: 1, probe_steps: 2, eta: 3}"


def run(folder: Path, *overrides: str, resume: bool = False) -> tuple[list[dict], dict[str, bytes]]:
    """Rows of the metrics and the weights of the run with stage `sft` alone."""
    recipe = load(str(recipe_in(folder, SUMS)), [*TERMS, *overrides])
    train(recipe, resume=resume, console=Console(file=io.StringIO()))
    path = Path(recipe.run.folder) / recipe.name
    return read_rows(path / "metrics.jsonl"), weights(path)


def test_the_losses_are_those_before_the_update(tmp_path: Path) -> None:
    """Of the first batch under the first weights, each demonstration by itself."""
    row = run(tmp_path, SKILL_IT, "stages.sft.steps=1")[0][0]
    loaded = load(str(recipe_in(tmp_path, SUMS)), [*TERMS, SKILL_IT])
    tasks = build_tasks(loaded.tasks["sums"])
    settings = loaded.model.model_dump()
    policy = load_policy(**settings, seed=loaded.seed, max_length=loaded.engine.max_length)
    policy.model.set_attn_implementation("sdpa")
    encoder = build_encoder(loaded, policy.tokenizer)
    stage = loaded.stages[0]
    order = build_order(stage.curriculum, tasks, seed=derive(loaded.seed, "sft", 0), measures_losses=True)
    expected: dict[str, list[float]] = {}
    for position in order.draw(stage.batch_size):
        task = tasks[position]
        prompt, completion = encoder.encode(task), encoder.encode_demonstration(task)
        ids = torch.tensor([[*prompt, *completion]])
        logprobs = policy.model(ids).logits[0, :-1].double().log_softmax(-1)
        nll = -logprobs.gather(-1, ids[0, 1:, None])[:, 0]
        expected.setdefault(task.category, []).append(nll[len(prompt) - 1 :].mean().item())
    assert set(expected) == {"2-terms", "3-terms"}
    for category, losses in expected.items():
        assert row[f"curriculum/{category}/loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert row[f"curriculum/{category}/frac"] == len(losses) / stage.batch_size


def test_reading_the_losses_changes_nothing_else(tmp_path: Path) -> None:
    """eta 0 keeps equal shares: the weights are bit for bit those of a mixture that reads no losses."""
    by_losses, read = run(tmp_path / "by_losses", "stages.sft.curriculum={use: skill_it, eta: 0}")
    plain, unread = run(tmp_path / "mixture", f"stages.sft.curriculum={MIXTURE}")
    assert read == unread
    assert [row["loss"] for row in by_losses] == [row["loss"] for row in plain]
    assert "curriculum/2-terms/loss" in by_losses[0] and "curriculum/2-terms/loss" not in plain[0]
    assert by_losses[0]["tokens/forward_only"] > 0 == plain[0].get("tokens/forward_only", 0)


@pytest.mark.parametrize("curriculum", [SKILL_IT, AIOLI])
def test_resume_is_exact(tmp_path: Path, curriculum: str) -> None:
    whole, expected = run(tmp_path / "whole", curriculum)
    run(tmp_path / "parts", curriculum, "stages.sft.steps=3")
    rows, resumed = run(tmp_path / "parts", curriculum, resume=True)
    assert resumed == expected
    for row, other in zip(whole, rows, strict=True):
        keys = [key for key in row if key == "loss" or key.startswith("curriculum/")]
        assert {key: row[key] for key in keys} == {key: other[key] for key in keys}
    assert len({row["curriculum/3-terms/value"] for row in rows}) > 1  # it learned on the way
