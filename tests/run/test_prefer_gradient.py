"""What a DPO pair does to the steps before the mistake: the gradient of TRL's loss, token by token, on a table."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlcore.recipe.optim_sections import UpdateSection
from rlcore.stages.prefer import PreferStage
from rlcore.stages.prefer_trl import pair_trainer, plain, train_pairs
from tests.run.table import table

STAGE = PreferStage(
    kind="prefer",
    data="-",
    pairs="given",
    steps=1,
    batch_size=1,
    optim=UpdateSection(use="sgd", lr=0.1),
)


def row(prompt: str, chosen: str, rejected: str) -> dict[str, list[int]]:
    return {
        "prompt_ids": list(prompt.encode()),
        "chosen_ids": list(chosen.encode()),
        "rejected_ids": list(rejected.encode()),
    }


def gradients(
    pair: dict[str, list[int]], folder: Path
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """d loss / d log-probability, [2, answer tokens] of the chosen and the rejected side, and d loss / d parameters."""
    policy = table()
    with plain(policy):
        trainer = pair_trainer(policy, [pair], STAGE, scratch=str(folder))
        with (
            torch.no_grad()
        ):  # away from the reference, where DPO's coefficient is 1/2 for every pair
            policy.model.lm_head.weight += 0.3 * torch.randn_like(policy.model.lm_head.weight)
        kept, forward = [], trainer.model.forward

        def keeping(*args, **kwargs):
            out = forward(*args, **kwargs)
            out.log_probs.retain_grad()
            kept.append(out.log_probs)
            return out

        trainer.model.forward = keeping
        [batch] = trainer.get_train_dataloader()
        trainer.model.train()
        trainer.compute_loss(trainer.model, batch).backward()
        answers = batch["completion_mask"][:, 1:].bool()
        return kept[0].grad.masked_fill(~answers, 0), {
            name: parameter.grad
            for name, parameter in policy.model.named_parameters()
            if parameter.grad is not None
        }


def test_what_the_sides_share_gets_no_gradient(tmp_path: Path) -> None:
    tokens, parameters = gradients(row("?", "abx", "aby"), tmp_path)
    assert tokens[:, 2].abs().min() > 0.01 and torch.equal(tokens[0, :3], -tokens[1, :3])
    _, without = gradients(
        row("?ab", "x", "y"), tmp_path
    )  # the same pair, with what is shared out of the loss
    for name, gradient in parameters.items():
        torch.testing.assert_close(
            gradient, without[name], rtol=0, atol=1e-6
        )  # TRL's head computes in float32
    _, planted = gradients(
        row("?", "acx", "aby"), tmp_path
    )  # a side that took another way earlier on
    assert any((planted[name] - without[name]).abs().max() > 1e-3 for name in planted)


@pytest.mark.parametrize(
    ("kind", "pair", "sign"),
    [
        ("whole answers", row("?", "cz", "axb"), -1),
        ("up to the pit", row("?", "cz", "ax"), -1),
        ("shared prefix", row("?", "ay", "ax"), 0),
    ],
)
def test_only_shared_prefixes_spare_the_good_steps_of_a_wrong_answer(
    kind: str, pair: dict, sign: int, tmp_path: Path
) -> None:
    """`a` is a good first step, `x` the mistake: what the loss does to log pi(a), and one update of the stage."""
    tokens, _ = gradients(pair, tmp_path)
    pushed = -tokens[:, 0].sum() if kind == "shared prefix" else -tokens[1, 0]
    assert torch.sign(pushed) == sign, "the push on the log-probability of `a`"
    if kind != "shared prefix":
        policy = table()
        before = policy.score([list(b"?a")])[0][0]
        train_pairs(policy, [pair], STAGE, seed=0, processes=1, log=lambda metrics: None)
        assert policy.score([list(b"?a")])[0][0] < before


def test_the_policy_is_whole_again_after_trl(tmp_path: Path) -> None:
    policy = table()
    sequences = [list(b"?ax"), list(b"?bz")]
    before = policy.score(sequences)
    with plain(policy):
        trainer = pair_trainer(policy, [row("?", "ax", "bz")], STAGE, scratch=str(tmp_path))
        [batch] = trainer.get_train_dataloader()
        metrics = trainer.compute_ref_log_probs(trainer.ref_model, batch)
    assert [value.item() for value in metrics] == pytest.approx(
        [sum(scores) for scores in before], abs=1e-5
    )
    assert policy.score(sequences) == before and "forward" not in vars(policy.model)
