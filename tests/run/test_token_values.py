"""What the learner computed of each token stands in the rollouts: the metrics of the step follow from it."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from rich.console import Console

from rlcore.learner.pack import pack
from rlcore.learner.token_record import TokenRecord, key_of
from rlcore.recipe.load import load
from rlcore.run.driver import train
from rlcore.run.folder import read_rows
from rlcore.types import Sample
from tests.run.whole import run_folder, write_recipe

SHORT = ("stages.sft.steps=2", "stages.rl.steps=3", "stages.before.limit=1", "stages.after.limit=1")


def run(folder: Path, *changes: str) -> tuple[list[dict[str, Any]], list[list[dict[str, Any]]]]:
    """Metrics and rollouts of each rl step."""
    recipe = write_recipe(folder)
    train(load(str(recipe), [*SHORT, *changes]), console=Console(quiet=True))
    metrics = read_rows(run_folder(recipe) / "metrics.jsonl")
    files = sorted((run_folder(recipe) / "rollouts").iterdir())
    return [row for row in metrics if row["stage"] == "rl"], [read_rows(path) for path in files]


@pytest.mark.parametrize("minibatches", [1, 2])
def test_the_metrics_follow_from_the_tokens(tmp_path: Path, minibatches: int) -> None:
    metrics, rollouts = run(tmp_path, f"stages.rl.minibatches={minibatches}", "stages.rl.optim.lr=0.01")
    on_policy, all_tokens = 0, 0
    for step, rows in zip(metrics, rollouts, strict=True):
        gaps, entropies = [], []
        for row in rows:
            trainer = row.get("trainer", {"logprobs": [], "entropies": []})
            recorded = [x for x, wrote in zip(row["logprobs"], row["mask"], strict=True) if wrote]
            if trainer["logprobs"]:
                gaps += [a - b for a, b in zip(trainer["logprobs"], recorded, strict=True)]
            entropies += trainer["entropies"]
        assert len(entropies) == step["tokens/trained"]
        assert fmean(entropies) == pytest.approx(step["entropy"], abs=1e-5)
        k3 = fmean(math.exp(gap) - 1 - gap for gap in gaps)
        assert k3 == pytest.approx(step["mismatch/kl"], rel=0.01, abs=1e-9)
        on_policy += sum(abs(gap) < 1e-4 for gap in gaps)
        all_tokens += len(gaps)
    if minibatches == 1:
        assert on_policy == all_tokens > 0
    else:  # the second update reads its tokens with weights that the first has changed
        assert 0 < on_policy < all_tokens


def test_they_are_left_out_where_nobody_wants_them(tmp_path: Path) -> None:
    _, rollouts = run(tmp_path, "run.token_values=false")
    assert rollouts and not any("trainer" in row for rows in rollouts for row in rows)


def test_of_several_passes_the_first_counts_and_ids_may_come_twice() -> None:
    def sample(tokens: list[int]) -> Sample:
        mask = [False, True, False, True]
        return Sample(id="same", token_ids=tokens, mask=mask, advantages=[1.0] * 4)

    samples = [sample([1, 2, 3, 4]), sample([5, 6, 7, 8])]
    [batch] = pack(samples, max_tokens=64)
    record = TokenRecord()
    for factor in (1.0, 10.0):
        first_token = torch.tensor([2.0, 4.0, 6.0, 8.0])[torch.argsort(torch.argsort(batch.target))]
        record.add(samples, batch, -factor * first_token, factor * first_token / 4)
    values = record.take()
    assert values[key_of(samples[0])].logprobs == [None, -2.0, None, -4.0]
    assert values[key_of(samples[1])].entropies == [None, 1.5, None, 2.0]
    assert record.take() == {}
