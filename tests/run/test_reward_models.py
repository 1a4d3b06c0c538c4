"""Reward models: their loss, how they are measured, and a whole run that trains them, ranks with them and learns from them."""

from __future__ import annotations

import json
import math
import random
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Qwen2Config

from rlcore.errors import RlcoreError
from rlcore.measures.calibration import comparison_metrics
from rlcore.recipe.check import check
from rlcore.recipe.load import load
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.run.driver import train
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.policy_rewards import joined
from rlcore.scoring.aggregate import Scored, ranked, weighted_sum
from rlcore.scoring.forms import RewardSpec
from rlcore.stages import reward_rows
from rlcore.stages.reward_model import RewardModelStage
from rlcore.stages.reward_model_trainer import (
    collate,
    measure,
    reward_trainer,
    row_loss,
    scores_of,
    split_tasks,
)
from rlcore.types import Verdict
from tests.run.test_stored_data import HEAD
from tests.run.whole import run_folder

VERIFIER = '{use: exact, after: "="}'
STAGES = f"""
stages:
  - {{kind: sft, tasks: demonstrations, steps: 60, batch_size: 32, optim: {{lr: 1e-2, schedule: cosine, warmup_steps: 2}}}}
  - {{kind: sample, name: drawn, tasks: demonstrations, limit: 32, num_samples: 4, rewards: [{VERIFIER}], sampling: {{max_tokens: 12}}}}
  - {{kind: reward_model, name: pairwise, data: drawn, steps: 4, batch_size: 8, micro_batch: 4, heldout: 0.3, center: 0.01, optim: {{lr: 1e-3}}}}
  - {{kind: reward_model, name: listwise, data: drawn, loss: listwise, steps: 2, batch_size: 4, heldout: 0.3, optim: {{lr: 1e-3}}}}
  - {{kind: eval, name: measured, tasks: eval_set, num_samples: 4,
     rewards: [{VERIFIER}, {{use: reward_model, model: listwise, weight: 0}}], sampling: {{max_tokens: 12, temperature: 1.0}}}}
  - {{kind: rl, tasks: demonstrations, steps: 2, groups_per_step: 4, group_size: 4, sampling: {{max_tokens: 12}}, optim: {{lr: 1e-3}},
     rewards: [{VERIFIER}, {{use: reward_model, model: pairwise, name: judge}}], aggregate: {{use: ranked, right: exact, score: judge}}}}
  - {{kind: sample, name: later, tasks: demonstrations, limit: 16, num_samples: 4, sampling: {{max_tokens: 12}},
     rewards: [{{use: reward_model, model: pairwise}}]}}
  - {{kind: prefer, name: online, data: later, pairs: best_worst, method: simpo, steps: 2, batch_size: 4, optim: {{lr: 1e-4}}}}
  - {{kind: reward_model, name: margins, data: later, pairs: best_worst, margin: true, steps: 2, batch_size: 4, optim: {{lr: 1e-3}}}}
  - {{kind: sample, name: rated, tasks: demonstrations, limit: 32, num_samples: 4, sampling: {{max_tokens: 12}},
     rewards: [{VERIFIER}, {{use: length, max_tokens: 6, name: brief, weight: 0}}]}}
  - {{kind: reward_model, name: dimensions, data: rated, heads: [exact, brief], steps: 2, batch_size: 4, heldout: 0.3, optim: {{lr: 1e-3}}}}
  - {{kind: sample, name: by_heads, tasks: demonstrations, limit: 4, num_samples: 2, sampling: {{max_tokens: 12}},
     rewards: [{{use: reward_model, model: dimensions, name: hpc}}]}}
  - {{kind: reward_model, name: gaps, data: rated, gap: "{{prompt}} better than {{reference}}?", steps: 2, batch_size: 5, heldout: 0,
     optim: {{lr: 1e-3}}}}
run: {{checkpoint_every: 100}}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reward_models") / "tiny.yaml"
    path.write_text(HEAD + STAGES + f"run.folder: {path.parent / 'runs'}\n")
    return path


@pytest.fixture(scope="module")
def done(recipe: Path) -> Path:
    train(load(str(recipe)), console=Console(quiet=True))
    return run_folder(recipe)


def listwise_formula(chosen: list[float], rejected: list[float]) -> float:
    """-1/(k(n-k)) sum over positives and negatives of log sigmoid(r_i - r_j), as the paper writes it."""
    k, n = len(chosen), len(chosen) + len(rejected)
    total = sum(math.log(1 / (1 + math.exp(-(i - j)))) for i in chosen for j in rejected)
    return -total / (k * (n - k))


def test_the_losses_are_those_of_the_papers() -> None:
    rng = random.Random(0)
    for k, m in ((1, 1), (1, 5), (2, 4), (5, 1)):
        chosen = [rng.uniform(-4, 4) for _ in range(k)]
        rejected = [rng.uniform(-4, 4) for _ in range(m)]
        tensors = [torch.tensor(values, dtype=torch.float64) for values in (chosen, rejected)]
        assert row_loss(*tensors).item() == pytest.approx(listwise_formula(chosen, rejected))
        equal = [torch.zeros(k), torch.zeros(m)]
        assert row_loss(*equal).item() == pytest.approx(math.log(2)), "equal scores, for any k"
    chosen, rejected = torch.tensor([1.5]), torch.tensor([0.25])
    bradley_terry = math.log(1 + math.exp(-(1.5 - 0.25 - 0.5)))
    assert row_loss(chosen, rejected, margin=0.5).item() == pytest.approx(bradley_terry)
    centred = bradley_terry + 0.1 * (1.5 + 0.25) ** 2
    assert row_loss(chosen, rejected, margin=0.5, center=0.1).item() == pytest.approx(centred)


@pytest.mark.parametrize(("margin", "center"), [(None, None), ([0.5, -1.0, 2.0], None), ([0.1] * 3, 0.05)])
def test_the_loss_of_pairs_is_trls(margin: list[float] | None, center: float | None) -> None:
    from trl import RewardTrainer

    scores = torch.tensor([0.3, -2.0, 1.0, 0.9, 0.5, -1.5])  # chosen, then rejected
    trl = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=center),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs: dict[str, Any] = {"attention_mask": torch.ones(6, 3)}
    if margin is not None:
        inputs["margin"] = torch.tensor(margin)

    def model(**_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=scores[:, None])

    theirs = RewardTrainer.compute_loss(trl, model, inputs)
    ours = [
        row_loss(scores[i : i + 1], scores[i + 3 : i + 4], margin=(margin or [0.0] * 3)[i], center=center or 0.0)
        for i in range(3)
    ]  # fmt: skip
    torch.testing.assert_close(torch.stack(ours).mean(), theirs)


def classifier() -> Any:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=264, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=64, num_labels=1, pad_token_id=256, initializer_range=0.3,
    )  # fmt: skip
    return AutoModelForSequenceClassification.from_config(config).eval()


def rows_of(rng: random.Random, n: int, *, sides: tuple[int, int]) -> list[dict[str, Any]]:
    def text() -> list[int]:
        return [rng.randrange(1, 200) for _ in range(rng.randint(2, 9))]

    return [
        {"task": str(i), "chosen": [text() for _ in range(sides[0])], "rejected": [text() for _ in range(sides[1])], "margin": 0.25 * i}
        for i in range(n)
    ]  # fmt: skip


@pytest.mark.parametrize("sides", [(1, 1), (2, 3)], ids=["pairwise", "listwise"])
@pytest.mark.parametrize("micro_batch", [4, 1])
def test_a_step_follows_the_gradient_of_the_mean(
    sides: tuple[int, int], micro_batch: int, tmp_path: Path
) -> None:
    """One step of gradient descent by the trainer against autograd over sequences one at a time, without padding."""
    rows = rows_of(random.Random(1), 4, sides=sides)
    model, reference = classifier(), classifier()
    stage = RewardModelStage(
        kind="reward_model", data="-", steps=1, batch_size=4, micro_batch=micro_batch, center=0.05,
        optim=UpdateSection(use="sgd", lr=0.1, clip_norm=1e6),
    )  # fmt: skip
    policy = SimpleNamespace(arithmetic=torch.float32, model=model)
    run = SimpleNamespace(policy=policy, accelerator=SimpleNamespace(num_processes=1))
    logged: list[dict[str, float]] = []
    trainer = reward_trainer(run, stage, model, rows, seed=0, log=logged.append, scratch=str(tmp_path))
    trainer.train()

    def score(ids: list[int]) -> torch.Tensor:
        return reference(torch.tensor([ids]), use_cache=False).logits[0, 0]

    losses, rights = [], []
    for row in rows:
        for i in map(score, row["chosen"]):
            for j in map(score, row["rejected"]):
                weight = 1 / (sides[0] * sides[1] * len(rows))
                bradley_terry = -torch.log(torch.sigmoid(i - j - row["margin"]))
                losses.append(weight * (bradley_terry + 0.05 * (i + j) ** 2))
                rights.append(float(i > j))
    loss = torch.stack(losses).sum()
    loss.backward()
    assert logged[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert logged[0]["accuracy"] == pytest.approx(fmean(rights), abs=1e-6)
    for (name, after), before in zip(model.named_parameters(), reference.parameters(), strict=True):
        if before.grad is not None:
            torch.testing.assert_close(after, before - 0.1 * before.grad, rtol=0, atol=2e-6, msg=name)


def test_measuring_reads_every_comparison_once() -> None:
    model = classifier()
    rows = rows_of(random.Random(2), 11, sides=(2, 3))
    found = measure(model, rows, rows_at_once=4)

    def score(ids: list[int]) -> float:
        with torch.no_grad():
            return model(torch.tensor([ids]), use_cache=False).logits.item()

    differences = [score(i) - score(j) for row in rows for i in row["chosen"] for j in row["rejected"]]
    expected = comparison_metrics(differences)
    assert found["heldout/comparisons"] == 66
    for name in ("accuracy", "brier", "ece"):
        assert found[f"heldout/{name}"] == pytest.approx(expected[name], abs=1e-5)
    batch = collate(256)(rows[:2])
    assert batch["input_ids"].shape[0] == 10 and batch["counts"].tolist() == [[2, 3], [2, 3]]


def test_calibration_against_its_definition() -> None:
    rng = random.Random(3)
    differences = [rng.gauss(0.5, 2) for _ in range(500)]
    metrics = comparison_metrics(differences)
    probabilities = [1 / (1 + math.exp(-d)) for d in differences]
    assert metrics["accuracy"] == pytest.approx(fmean(p > 0.5 for p in probabilities))
    assert metrics["brier"] == pytest.approx(fmean((1 - p) ** 2 for p in probabilities))
    bins = defaultdict(list)
    for p in probabilities:
        confidence = max(p, 1 - p)
        bins[min(9, int((confidence - 0.5) * 20))].append((confidence, p > 0.5))
    gaps = [len(of) * abs(fmean(c for c, _ in of) - fmean(r for _, r in of)) for of in bins.values()]
    assert metrics["ece"] == pytest.approx(sum(gaps) / 500)
    # scores that mean what they say: of pairs with difference d a fraction sigmoid(d) is ordered right
    honest = []
    for _ in range(20_000):
        d = abs(rng.gauss(0, 2))
        honest.append(d if rng.random() < 1 / (1 + math.exp(-d)) else -d)
    assert comparison_metrics(honest)["ece"] < 0.015
    assert comparison_metrics([3 * d for d in honest])["ece"] > 0.1, "over-confident scores"
    assert comparison_metrics([0.0])["accuracy"] == 0.5
    assert comparison_metrics([1e5, -1e5])["brier"] == 0.5


def test_a_task_is_never_on_both_sides() -> None:
    rows = [{"task": str(i % 10)} for i in range(50)]
    kept, heldout = split_tasks(rows, 0.3, seed=0)
    assert len({row["task"] for row in heldout}) == 3 and len(kept) + len(heldout) == 50
    assert not {row["task"] for row in kept} & {row["task"] for row in heldout}
    assert split_tasks(rows, 0.0, seed=0) == (rows, [])
    assert split_tasks(rows, 0.3, seed=1)[1] != heldout


def test_the_models_load_and_the_reward_is_their_score(done: Path) -> None:
    folder = done / "reward_models/pairwise"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    AutoTokenizer.from_pretrained(folder)
    rows = read_rows(done / "samples/later/rank0.jsonl")
    assert len(rows) == 64
    for row in rows[:12]:
        with torch.no_grad():
            score = model(torch.tensor([row["token_ids"]]), use_cache=False).logits.item()
        assert row["value"] == pytest.approx(score, abs=1e-4)
        assert row["parts"]["reward_model"] == row["value"]
    assert len({round(row["value"], 4) for row in rows}) > 4, "a model that scores all alike would show nothing"
    facts = json.loads((folder / "reward_model.json").read_text())
    assert facts["reads"] == "tokens" and facts["heldout/comparisons"] > 0


def test_held_out_metrics_are_in_the_last_row_of_the_stage(done: Path) -> None:
    for name, steps in (("pairwise", 4), ("listwise", 2)):
        rows = [row for row in read_rows(done / "metrics.jsonl") if row["stage"] == name]
        assert len(rows) == steps and all("heldout/accuracy" not in row for row in rows[:-1])
        assert {"loss", "lr", "accuracy", "margin"} <= rows[0].keys()
        assert 0 <= rows[-1]["heldout/accuracy"] <= 1 and rows[-1]["heldout/brier"] > 0


def test_the_policy_is_as_it_was(done: Path) -> None:
    """Weights of the checkpoint after sft (60 steps) and after both reward models (66) are equal."""
    from safetensors.torch import load_file

    folders = sorted((done / "checkpoints").glob("step_*"))
    assert [path.name for path in folders][-1] == "step_000076"
    states = [load_file(path / "model.safetensors") for path in folders[-2:]]
    same = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert same, "the last stages, reward models, left the policy as it was"


def test_an_evaluation_reports_what_the_reward_model_would_choose(done: Path) -> None:
    [row] = RunFolder(done).evaluations()
    kept = [r for path in RunFolder(done).evaluation_files(row) for r in read_rows(path)]
    tasks = defaultdict(list)
    for r in kept:
        tasks[r["task"]].append((r["parts"]["reward_model"], r["score"]))
    for k in (1, 2, 4):
        values = [fmean(max(subset)[1] for subset in combinations(of, k)) for of in tasks.values()]
        assert row[f"rm@{k}"] == pytest.approx(fmean(values))
        assert row[f"rm@{k}"] <= row[f"pass@{k}"] + 1e-12
    assert row["rm@1"] == pytest.approx(row["accuracy"])
    assert row["accuracy"] == fmean(r["score"] for r in kept), "the reward model has weight 0 there"


def test_the_aggregate_reads_the_scores_of_the_reward_model(done: Path) -> None:
    rows = [row for path in sorted((done / "rollouts").glob("*.jsonl")) for row in read_rows(path)]
    assert len(rows) == 32
    for row in rows:
        right, score = row["parts"]["exact"], row["parts"]["judge"]
        expected = ranked(SimpleNamespace(parts={"r": right, "s": score}), right="r", score="s")
        assert row["value"] == pytest.approx(expected)
        assert list(row["parts"]) == ["exact", "judge"]


def test_rewards_of_learner_and_workers_join_before_the_aggregate() -> None:
    specs = [RewardSpec("exact"), RewardSpec("reward_model", weight=0.5), RewardSpec("length", weight=0)]
    rollout = SimpleNamespace(finish="stop", policy_ids=[1, 2])

    def joined_with(score: float | None, **keys: Any) -> Verdict:
        verdict = Verdict(value=1.0, parts={"exact": 1.0, "length": 7.0}, **keys)
        return joined(verdict, {"reward_model": score}, specs, weighted_sum, rollout)

    with_score = joined_with(-4.0, status="wrong-format")
    assert with_score.value == -1.0 and with_score.status == "wrong-format"
    assert list(with_score.parts) == ["exact", "reward_model", "length"]
    without = joined_with(None)
    assert without.value is None and without.status == "unscorable" and "reward_model" in without.reason
    specs[1] = RewardSpec("reward_model", weight=0.5, optional=True)
    assert joined_with(None).value == 1.0
    specs[1] = RewardSpec("reward_model", weight=0)
    assert joined_with(None).value == 1.0
    failed = Verdict(value=None, status="crashed", parts={"exact": None})
    assert joined(failed, {"reward_model": 1.0}, specs, weighted_sum, rollout) == failed
    broken = joined(
        Verdict(value=1.0, parts={"exact": 1.0, "length": 1.0}), {"reward_model": 1.0}, specs, lambda scored: 1 / 0, rollout
    )
    assert broken.status == "crashed" and "ZeroDivisionError" in broken.reason


def test_pairs_of_scores_have_the_difference_as_margin(done: Path) -> None:
    by_task = defaultdict(list)
    for row in read_rows(done / "samples/later/rank0.jsonl"):
        by_task[row["task"]].append(row)
    pairs = read_rows(done / "pairs/online.jsonl")
    assert pairs == read_rows(done / "pairs/margins.jsonl")
    for pair in pairs:
        values = [row["value"] for row in by_task[pair["task"]]]
        assert pair["margin"] == pytest.approx(max(values) - min(values)) and pair["margin"] > 0


def test_each_head_is_a_score_of_its_own(done: Path) -> None:
    folder = done / "reward_models/dimensions"
    facts = json.loads((folder / "reward_model.json").read_text())
    assert facts["heads"] == ["exact", "brief"] and set(facts["heldout/heads"]) <= {"exact", "brief"}
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert model.config.id2label == {0: "exact", 1: "brief"}
    for row in read_rows(done / "samples/by_heads/rank0.jsonl"):
        with torch.no_grad():
            scores = model(torch.tensor([row["token_ids"]])).logits[0]
        assert row["parts"]["hpc/exact"] == pytest.approx(scores[0].item(), rel=1e-4, abs=1e-5)
        assert row["parts"]["hpc/brief"] == pytest.approx(scores[1].item(), rel=1e-4, abs=1e-5)
        assert row["value"] == pytest.approx(scores.mean().item(), rel=1e-4, abs=1e-5)
        # one dimension alone, by weights of the aggregate
        parts = {"hpc": row["value"], **row["parts"]}
        only = weighted_sum(Scored(parts=parts, weights={"hpc": 1.0}), weights={"hpc/exact": 1.0, "hpc/brief": 0.0})
        assert only == row["parts"]["hpc/exact"]


def test_a_row_teaches_its_head_alone() -> None:
    config = classifier().config
    config.num_labels = 2
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(config)
    rows = [
        {"task": "a", "chosen": [[5, 6]], "rejected": [[7]], "margin": 0.0, "head": 1},
        {"task": "b", "chosen": [[8, 9, 3], [4]], "rejected": [[2]], "margin": 0.0, "head": 1},
    ]
    batch = collate(256)(rows)
    losses = [row_loss(chosen, rejected) for chosen, rejected, _ in scores_of(model, batch)]
    torch.stack(losses).mean().backward()
    assert model.score.weight.grad[0].abs().max() == 0 < model.score.weight.grad[1].abs().max()
    plain = [model(torch.tensor([ids])).logits[0, 1].item() for ids in ([5, 6], [7])]
    assert losses[0].item() == pytest.approx(math.log1p(math.exp(plain[1] - plain[0])), rel=1e-5)


def test_a_gap_model_compares_five_orderings_of_a_pair() -> None:
    row = {"prompt": "p", "chosen": "w", "rejected": "l", "prompt_ids": [1], "chosen_ids": [20], "rejected_ids": [10]}
    names = {"p>w": 2, "p>l": 1}  # prompt with its reference -> token
    encoder = SimpleNamespace(encode=lambda task: [names[task.prompt]])
    run = SimpleNamespace(encoder=encoder, policy=SimpleNamespace(max_length=8))
    stage = SimpleNamespace(gap="{prompt}>{reference}")
    found = [
        (row["chosen"][0], row["rejected"][0])
        for row in reward_rows.gap_rows(run, stage, [row])
    ]
    wl, ww, ll, lw = [1, 20], [2, 20], [1, 10], [2, 10]  # (completion beside reference)
    assert found == [(wl, ww), (wl, ll), (wl, lw), (ww, lw), (ll, lw)]


def test_a_trained_gap_model_keeps_the_orderings() -> None:
    """Held-out pairs of a toy where the larger number is better; (y, y) is near a constant."""
    encode = SimpleNamespace(encode=lambda task: [3, 50 + int(task.prompt)])
    run = SimpleNamespace(encoder=encode, policy=SimpleNamespace(max_length=8))
    rng = random.Random(0)

    def rows_of(number: int) -> list[dict[str, Any]]:
        made = []
        for _ in range(number):
            low, high = sorted(rng.sample(range(10, 42), 2))
            pair = {"prompt": "", "chosen": str(high), "rejected": str(low), "prompt_ids": [], "chosen_ids": [high], "rejected_ids": [low]}
            made += reward_rows.gap_rows(run, SimpleNamespace(gap="{prompt}{reference}"), [pair])
        return made

    model = classifier()
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    train_rows, heldout = rows_of(400), rows_of(40)
    for _ in range(400):
        batch = collate(256)(rng.sample(train_rows, 40))
        losses = [row_loss(chosen, rejected) for chosen, rejected, _ in scores_of(model, batch)]
        optimiser.zero_grad()
        torch.stack(losses).mean().backward()
        optimiser.step()
    measured = measure(model, heldout)
    assert measured["heldout/accuracy"] > 0.9
    with torch.no_grad():
        same = torch.cat([model(torch.tensor([[3, 50 + y, y]])).logits[0] for y in range(10, 42)])
        ends = [model(torch.tensor([[3, 50 + ref, y]])).logits.item() for ref, y in ((10, 41), (41, 10))]
    assert same.std() < 0.2 * (ends[0] - ends[1]) and ends[1] < same.min() and same.max() < ends[0]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("stages.rl.rewards=[{use: reward_model, model: pairwis}]", "neither a reward_model stage before this one (pairwise, listwise)"),
        ("stages.measured.rewards=[{use: reward_model, model: margins}]", "neither a reward_model stage before this one"),
        ("stages.rl.rewards=[{use: reward_model, path: x}]", "no parameter 'path'"),
        ("stages.rl.filter=zero_variance", "rewards.reward_model:RewardModel"),
        ("stages.listwise.margin=true", "margin has no effect with loss listwise"),
        ("stages.dimensions.margin=true", "margin has no effect with heads"),
        ("stages.gaps.gap='is {prompt} better?'", "lacks {reference}"),
        ("stages.measured.rank_by=judge", "there is no reward 'judge'"),
        ("stages.online.name=margins", "both write pairs/margins"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(recipe: Path, override: str, sentence: str) -> None:
    with pytest.raises(RlcoreError) as error:
        check(load(str(recipe), [override]))
    assert sentence in str(error.value), error.value
