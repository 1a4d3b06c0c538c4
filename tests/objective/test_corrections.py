"""Corrections of an engine that disagrees with the learner: enumerable truths, weights by hand, and never twice."""

import math

import pytest
import torch
from accelerate import Accelerator
from test_preset_gradients import COUNTS, LENGTHS, ON, draw, error, flat, gradient

from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.objective import Counts, Tokens, objective
from rlcore.objective.correction import KINDS, correct
from rlcore.types import Sample

POLICY = torch.tensor([0.1, 0.7, -0.5, 0.9, -1.0], dtype=torch.float64)
SAMPLER = (POLICY + torch.tensor([0.8, -0.6, 0.3, -0.9, 0.5], dtype=torch.float64)).log_softmax(0)
REWARD = torch.tensor([1.0, -0.5, 2.0, 0.3, -1.0], dtype=torch.float64)


def expected(made):
    """Gradient over the five one-token answers, drawn by SAMPLER, for the policy that is trained on them at once."""

    def loss(logits):
        logp = logits.log_softmax(0)
        tokens = Tokens(
            logp, logp.detach(), SAMPLER, None, logp * 0, REWARD, SAMPLER.exp(), torch.arange(5), 5
        )
        return sum(term(tokens, Counts(1, 1)) for term in made.terms)

    return gradient(loss, POLICY)


TRUTH = gradient(lambda x: -(x.softmax(0) * REWARD).sum(), POLICY)


@pytest.mark.parametrize("name", ["reinforce", "ppo", "grpo", "cispo", "rloo", "dapo"])
@pytest.mark.parametrize(
    "kind", ["token_truncate", "sequence_truncate", "token_mask", "sequence_mask"]
)
def test_without_a_bound_the_gradient_is_the_true_policys(name, kind):
    assert error(expected(objective(name, correction={"kind": kind, "high": 1e9})), TRUTH) < 1e-14
    assert error(expected(objective(name)), TRUTH) > 0.1


def test_a_cap_of_one_never_weighs_up_and_a_band_drops_what_is_outside():
    delta = (POLICY.log_softmax(0) - SAMPLER).exp()

    def by_hand(weight):
        return gradient(
            lambda x: -(SAMPLER.exp() * weight * REWARD * x.log_softmax(0)).sum(), POLICY
        )

    capped = expected(objective("reinforce", correction={"kind": "token_truncate", "high": 1.0}))
    assert error(capped, by_hand(delta.clamp(max=1))) < 1e-14
    band = expected(
        objective("reinforce", correction={"kind": "token_mask", "low": 0.6, "high": 2.0})
    )
    inside = (delta >= 0.6) & (delta <= 2.0)
    assert inside.any() and not inside.all()
    assert error(band, by_hand(delta * inside)) < 1e-14
    assert error(expected(objective("reinforce", correction={"kind": "geometric_mask", "low": 0.6, "high": 2.0})),
                 by_hand(inside.double())) < 1e-14  # fmt: skip


def tokens_with(engine, batch):
    lp, old, ref, a = batch
    return flat(lp.clone().requires_grad_(), old, ref, a)._replace(
        behaviour=flat(lp, engine, ref, a).old
    )


def coefficients(made, tokens):
    """What each token's log-probability is multiplied by."""
    return torch.autograd.grad(sum(term(tokens, COUNTS) for term in made.terms), tokens.logp)[0]


WEIGHTS = {
    "token_truncate": lambda d, n: d.exp().clamp(max=1.3),
    "token_mask": lambda d, n: d.exp() * (d.exp() <= 1.3),
    "sequence_truncate": lambda d, n: d.sum(1, keepdim=True).exp().clamp(max=1.3),
    "sequence_mask": lambda d, n: (
        d.sum(1, keepdim=True).exp() * (d.sum(1, keepdim=True).exp() <= 1.3)
    ),
    "geometric_mask": lambda d, n: ((d.sum(1, keepdim=True) / n).exp() <= 1.3).double(),
}


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize(
    "name", ["grpo", "dapo", "gspo", "cispo", "sapo", "rloo", "ppo", "vespo", "reinforce"]
)
def test_weights_multiply_the_gradient_and_leave_the_clip_alone(name, kind):
    batch = draw()
    engine = batch[1] + 0.4 * torch.randn(
        batch[1].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    weight = WEIGHTS[kind]((batch[1] - engine) * ON, LENGTHS[:, None]).expand_as(ON)[ON.bool()]
    tokens = tokens_with(engine, batch)
    got = coefficients(objective(name, correction={"kind": kind, "high": 1.3}), tokens)
    want = coefficients(objective(name), tokens) * weight
    assert (got - want).abs().max() < 1e-14
    if (weight != 1).any():
        assert (coefficients(objective(name), tokens) - want).abs().max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_long_answers_do_not_overflow(kind):
    n = 400
    zeros, ones = torch.zeros(n), torch.ones(n)
    tokens = Tokens(
        zeros.clone().requires_grad_(), zeros, zeros - 1, None, zeros, -ones, ones, zeros.long(), 1
    )
    got = torch.autograd.grad(
        correct(objective("dapo"), kind, high=2.0).terms[0](tokens, Counts(n, 1)), tokens.logp
    )[0]
    want = {"token_truncate": 2.0, "sequence_truncate": 2.0, "negative_mask": 1.0}.get(kind, 0.0)
    assert torch.allclose(got, want * ones / n)


def test_what_a_mask_drops_is_reported_and_what_a_weight_changes_is_not():
    batch = draw(spread=0.05)
    engine = batch[1] + 0.4 * torch.randn(
        batch[1].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    tokens = tokens_with(engine, batch)
    delta = (tokens.old - tokens.behaviour).exp()
    truncated = (
        objective("dapo", correction={"kind": "token_truncate", "high": 1.1})
        .terms[0]
        .evaluate(tokens, COUNTS)
    )
    assert (truncated.mask == 1).all()
    masked = (
        objective("dapo", correction={"kind": "token_mask", "high": 1.1})
        .terms[0]
        .evaluate(tokens, COUNTS)
    )
    assert torch.equal(masked.mask == 0, delta > 1.1)


def gradient_of_step(samples, correction, version):
    """One step of a real learner whose weights have number `version`."""
    policy = load_policy(
        config={"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32},
        tokenizer="bytes", dtype="float64",
    )  # fmt: skip
    made = objective("reinforce_pp", clip_low=0.9, clip_high=9.0, correction=correction)
    learner = Learner(
        policy,
        made,
        accelerator=Accelerator(cpu=True),
        lr=1e-3,
        total_updates=1,
        version=version,
        clip_norm=1e9,
    )
    grads, parameters = [], list(policy.model.parameters())
    learner._optimizer.optimizer.register_step_pre_hook(
        lambda *_: grads.extend(p.grad.flatten() for p in parameters)
    )
    learner.update(samples)
    return torch.cat(grads)


def test_stale_samples_are_corrected_by_their_ratio_and_not_again():
    """The ratio to what was recorded already holds the mismatch: on_policy samples times delta equal stale samples times nothing."""
    ids = [3, 5, 7, 9, 11]
    sample = Sample(
        id="s",
        token_ids=ids,
        mask=[False] + [True] * 4,
        advantages=[0.5] * 5,
        logprobs=[-5.2] * 5,
        version=4,
    )
    weighed = {"kind": "token_truncate", "high": 1e9}
    on_policy = gradient_of_step([sample], weighed, version=4)
    stale = gradient_of_step([sample], weighed, version=5)
    assert error(stale, gradient_of_step([sample], None, version=5)) < 1e-14
    assert error(stale, on_policy) < 1e-13
    assert error(gradient_of_step([sample], None, version=4), on_policy) > 1e-2


def test_nothing_happens_where_nobody_recorded():
    batch = draw()
    tokens = tokens_with(batch[1], batch)
    for kind in KINDS:
        if kind != "negative_mask":
            made = objective("grpo", correction={"kind": kind, "high": 1.0})
            assert (
                error(coefficients(made, tokens), coefficients(objective("grpo"), tokens)) < 1e-14
            )


def test_an_infinite_mismatch_drops_or_caps():
    zero, one = torch.zeros(1), torch.ones(1)
    tokens = Tokens(
        zero.clone().requires_grad_(),
        zero,
        torch.full((1,), -math.inf),
        None,
        zero,
        one,
        one,
        zero.long(),
        1,
    )
    for kind, want in (("token_mask", 0.0), ("token_truncate", -2.0)):
        loss = objective("ppo", correction={"kind": kind, "high": 2.0}).terms[0](
            tokens, Counts(1, 1)
        )
        assert torch.autograd.grad(loss, tokens.logp)[0].item() == want
