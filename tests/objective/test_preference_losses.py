"""Preference losses on the same numbers as their papers' formulas in float64 and as TRL's own code."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from rlcore.errors import RecipeError
from rlcore.objective.preference import PairLosses, Sides, cpo, orpo, simpo
from rlcore.recipe.optim_sections import UpdateSection
from rlcore.stages.prefer import PreferStage
from rlcore.stages.prefer_trl import labelled, pair_trainer, plain, train_pairs
from tests.run.table import table

LOGPS = ([-3.0, -40.0, -0.7, -12.5], [-5.0, -31.0, -9.0, -12.5])
TOKENS = ([3, 20, 1, 5], [4, 31, 6, 5])


def sides() -> Sides:
    """Both sides of four pairs; the chosen sums ask for a gradient."""
    double = [torch.tensor(values, dtype=torch.float64) for values in (*LOGPS, *TOKENS)]
    return Sides(double[0].requires_grad_(), double[1].requires_grad_(), *double[2:])


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def simpo_formula(c: float, r: float, m: int, n: int) -> float:
    return -log_sigmoid(2.5 * c / m - 2.5 * r / n - 1.4)


def cpo_formula(c: float, r: float, m: int, n: int) -> float:
    return -log_sigmoid(0.2 * (c - r)) - 0.5 * c / m


def orpo_formula(c: float, r: float, m: int, n: int) -> float:
    def odds(logp: float) -> float:
        probability = math.exp(logp)
        return probability / (1 - probability)

    return -c / m - 0.3 * log_sigmoid(math.log(odds(c / m) / odds(r / n)))


METHODS = [
    (simpo(beta=2.5, gamma=1.4), simpo_formula),
    (cpo(beta=0.2, nll=0.5), cpo_formula),
    (orpo(beta=0.3), orpo_formula),
]


@pytest.mark.parametrize(("loss", "formula"), METHODS, ids=["simpo", "cpo", "orpo"])
def test_losses_and_gradients_are_those_of_the_papers(
    loss: Callable[[Sides], PairLosses], formula: Callable[..., float]
) -> None:
    given = sides()
    losses = loss(given)
    pairs = list(zip(*LOGPS, *TOKENS, strict=True))
    assert losses.loss.tolist() == pytest.approx([formula(*pair) for pair in pairs], rel=1e-12)
    losses.loss.sum().backward()
    step = 1e-6
    for i, (c, r, m, n) in enumerate(pairs):
        by_chosen = (formula(c + step, r, m, n) - formula(c - step, r, m, n)) / (2 * step)
        by_rejected = (formula(c, r + step, m, n) - formula(c, r - step, m, n)) / (2 * step)
        assert given.chosen.grad[i].item() == pytest.approx(by_chosen, rel=1e-5, abs=1e-9)
        assert given.rejected.grad[i].item() == pytest.approx(by_rejected, rel=1e-5, abs=1e-9)


def test_they_are_trls_own() -> None:
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    given = sides()
    device = SimpleNamespace(device="cpu")
    settings = {"alpha": 0.0, "label_smoothing": 0.0, "accelerator": device}
    trl = SimpleNamespace(**settings, loss_type="simpo", beta=2.5, simpo_gamma=1.4)
    theirs, chosen, rejected = CPOTrainer.cpo_loss(trl, given.chosen_mean, given.rejected_mean)
    ours = simpo(beta=2.5, gamma=1.4)(given)
    for mine, other in zip(ours, (theirs, chosen, rejected), strict=True):
        torch.testing.assert_close(mine, other)

    trl = SimpleNamespace(**settings, loss_type="sigmoid", beta=0.2)
    theirs, *_ = CPOTrainer.cpo_loss(trl, given.chosen, given.rejected)
    torch.testing.assert_close(cpo(beta=0.2, nll=0.0)(given).loss, theirs)

    trl = SimpleNamespace(beta=0.3, accelerator=device)
    ratio, *_ = ORPOTrainer.odds_ratio_loss(trl, given.chosen_mean, given.rejected_mean)
    ours = orpo(beta=0.3)(given).loss + given.chosen_mean  # TRL adds the imitation elsewhere
    torch.testing.assert_close(ours, -ratio.double(), rtol=1e-5, atol=1e-6)  # it is in float32


def test_orpo_stays_finite_for_a_certain_completion() -> None:
    certain = Sides(*(torch.tensor([value], requires_grad=True) for value in (0.0, -1e-9, 2.0, 2.0)))
    loss = orpo()(certain).loss
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(certain.chosen.grad)


def stage(**keys: Any) -> PreferStage:
    optim = UpdateSection(use="sgd", lr=0.05, clip_norm=1e6)
    standard = {"kind": "prefer", "data": "-", "pairs": "given", "steps": 1, "batch_size": 4}
    return PreferStage(**{**standard, "optim": optim, **keys})


ROWS = [
    {
        "prompt_ids": list(prompt.encode()),
        "chosen_ids": list(chosen.encode()),
        "rejected_ids": list(rejected.encode()),
    }
    for prompt, chosen, rejected in (
        ("?", "ab", "cde"), ("!", "xyz", "a"), ("?!", "b", "zz"), ("=", "cab", "xa"),
    )
]  # fmt: skip


def sums(policy: Any, side: str) -> list[torch.Tensor]:
    """log p of the side's tokens of each row, from the logits of the plain model."""
    result = []
    for row in ROWS:
        ids = torch.tensor([row["prompt_ids"] + row[side]])
        logps = policy.model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
        picked = logps.gather(1, ids[0, 1:, None])[:, 0]
        result.append(picked[len(row["prompt_ids"]) - 1 :].sum())
    return result


@pytest.mark.parametrize("micro_batch", [4, 2, 1])
@pytest.mark.parametrize(
    ("keys", "formula"),
    [
        ({"method": {"use": "simpo", "gamma": 1.4}, "beta": 2.5}, simpo_formula),
        ({"method": {"use": "cpo", "nll": 0.5}, "beta": 0.2}, cpo_formula),
        ({"method": "orpo", "beta": 0.3}, orpo_formula),
    ],
    ids=["simpo", "cpo", "orpo"],
)
def test_a_step_of_the_stage_follows_the_gradient_of_the_mean(
    keys: dict[str, Any], formula: Callable[..., float], micro_batch: int
) -> None:
    """One step of plain gradient descent, whatever the micro-batch, against autograd through other code."""
    policy, reference = table(), table()
    logged: list[dict[str, float]] = []
    train_pairs(
        policy, ROWS, stage(**keys, micro_batch=micro_batch), seed=0, processes=1, log=logged.append
    )
    with plain(reference):
        chosen, rejected = sums(reference, "chosen_ids"), sums(reference, "rejected_ids")
        given = Sides(
            torch.stack(chosen),
            torch.stack(rejected),
            torch.tensor([len(row["chosen_ids"]) for row in ROWS]),
            torch.tensor([len(row["rejected_ids"]) for row in ROWS]),
        )
        values = [
            formula(c.item(), r.item(), m.item(), n.item())
            for c, r, m, n in zip(*given[:4], strict=True)
        ]
        stage(**keys).build_method()(given).loss.mean().backward()
    assert logged[0]["loss"] == pytest.approx(sum(values) / 4, rel=1e-4)
    for (name, after), before in zip(
        policy.model.named_parameters(), reference.model.parameters(), strict=True
    ):
        if before.grad is not None:
            expected = before - 0.05 * before.grad
            torch.testing.assert_close(after, expected, rtol=0, atol=1e-6, msg=name)
    assert "forward" not in vars(policy.model), "TRL's output head is taken off again"


def test_ktos_loss_is_the_papers_on_completions_of_the_stage(tmp_path: Path) -> None:
    """Eq. 8 of the paper with its estimate of z, through the stage's trainer, away from the reference."""
    policy = table()
    keys = {"method": {"use": "kto", "undesirable_weight": 1.5}, "beta": 0.4}
    with plain(policy):
        trainer = pair_trainer(policy, ROWS, stage(**keys), scratch=str(tmp_path))
        with torch.no_grad():
            policy.model.lm_head.weight += 0.5 * torch.randn_like(policy.model.lm_head.weight)
        [batch] = trainer.get_train_dataloader()
        loss = trainer.compute_loss(trainer.model, batch)

        def ratio(prompt: list[int], completion: list[int]) -> float:
            values = []
            for model in (policy.model, trainer.ref_model):
                ids = torch.tensor([prompt + completion])
                logps = model(ids, use_cache=False).logits[0, :-1].log_softmax(-1)
                picked = logps.gather(1, ids[0, 1:, None])[:, 0]
                values.append(picked[len(prompt) - 1 :].sum().item())
            return values[0] - values[1]

        rows = labelled(ROWS, 8, seed=0)
        z = sum(ratio(row["prompt_ids"], row["KL_completion_ids"]) for row in rows) / len(rows)
        z, expected = max(z, 0.0), []
        for row in rows:
            gain = ratio(row["prompt_ids"], row["completion_ids"])
            sign = 1 if row["label"] else -1
            value = 1 / (1 + math.exp(-0.4 * sign * (gain - z)))
            expected.append((1.0 if row["label"] else 1.5) * (1 - value))
    assert loss.item() == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_kto_reads_each_completion_once_and_others_for_the_kl() -> None:
    rows = labelled([*ROWS, ROWS[0]], 4, seed=1)
    assert len(rows) == 8 and sum(row["label"] for row in rows) == 4
    for start in (0, 4):
        batch = rows[start : start + 4]
        completions = sorted(row["completion_ids"] for row in batch)
        assert sorted(row["KL_completion_ids"] for row in batch) == completions
        assert all(row["KL_completion_ids"] != row["completion_ids"] for row in batch)


def test_every_method_raises_the_margin() -> None:
    for method in ("dpo", "kto", "simpo", "cpo", "orpo"):
        policy = table()
        logged: list[dict[str, float]] = []
        optim = UpdateSection(use="adamw", lr=0.02)
        train_pairs(
            policy, ROWS, stage(method=method, steps=12, optim=optim), seed=0, processes=1, log=logged.append
        )
        assert len(logged) == 12
        assert logged[-1]["margin"] > logged[0]["margin"], method


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"method": "simpo", "loss_type": "ipo"}, "loss_type has no effect with method simpo"),
        ({"pairs": "shared_prefix", "min_gap": 0.2}, "min_gap.* is now a parameter of pairs"),
        ({"per_task": 2}, "per_task has no effect"),
    ],
)
def test_a_key_without_effect_is_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        stage(**keys)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"method": "simpoo"}, "did you mean 'simpo'"),
        ({"method": {"use": "simpo", "gama": 1.0}}, "did you mean 'gamma'"),
        ({"method": {"use": "dpo", "beta": -1.0}}, "beta must be above 0"),
    ],
)
def test_what_is_wrong_with_a_method_is_said(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        stage(**keys).build_method()
