"""Which objectives may be taken piece by piece, and that doing so changes nothing."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from accelerate import Accelerator
from test_update import make_samples

from rlcore.learner import module
from rlcore.learner import update as step_module
from rlcore.learner.gradient import sums_over_tokens
from rlcore.learner.logprobs import one_pass
from rlcore.learner.update import Learner
from rlcore.objective import PRESETS, Objective, Term, objective
from rlcore.objective.parts import (
    capped,
    constant,
    entropy,
    old_policy,
    row_sum,
    sequence_mean,
    sequence_old_policy,
)

PARAMS = {"dr_grpo": {"max_tokens": 9}}
MIXING = {"gspo", "gspo_token", "luspo", "vespo", "kimi", "gmpo", "topr"}
"""Presets whose tokens depend on others of their sequence: a preset that does adds its name."""


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    assert sums_over_tokens(objective(name, **PARAMS.get(name, {}))) == (name not in MIXING)
    if name == "grpo":
        assert sums_over_tokens(objective(name, kl=0.1))


def drifted_sequences(tokens, ratio, advantage):
    """0 for a sequence that is far from its old_policy."""
    return (row_sum(tokens.logp - tokens.old, tokens).abs() < 1).to(ratio.dtype)


def upper_half(tokens, ratio, advantage):
    """Without a sum over sequences, and yet of more than one token."""
    return (tokens.entropy >= tokens.entropy.median()).to(ratio.dtype)


@pytest.mark.parametrize(
    ("term", "is_sum"),
    [
        (Term(mask=drifted_sequences), False),
        (Term(mask=upper_half), False),
        (Term(denominator=capped(2.0, sequence_old_policy)), False),
        (Term(denominator=sequence_old_policy, weight=0.5), False),
        (Term(denominator=old_policy, average=sequence_mean), True),
        (Term(advantage=constant(0.1), likelihood=entropy), True),
    ],
)
def test_parts_that_mix_tokens_are_noticed(term, is_sum):
    assert sums_over_tokens(Objective((term,))) is is_sum


MIXED = objective("grpo", kl=0.1) + objective("sft", stream="demonstration")
BONUS = Objective(
    (*objective("dapo").terms, Term(advantage=constant(0.3), likelihood=entropy, name="bonus"))
)


@pytest.mark.parametrize("made", [MIXED, BONUS], ids=["two-streams-and-reference", "entropy-bonus"])
def test_one_pass_equals_recompute_in_gradient_and_report(make_policy, monkeypatch, made):
    samples = make_samples(5, version=0)
    if made is MIXED:
        samples += make_samples(4, seed=3, has_behaviour=False, stream="demonstration")
    samples = [
        replace(sample, weight=1 + number / 3, temperature=0.7)
        for number, sample in enumerate(samples)
    ]
    results = []
    monkeypatch.setattr(module, "one_pass", partial(one_pass, chunk=7))
    for pieces in (True, False):
        if not pieces:
            monkeypatch.setattr(step_module, "sums_over_tokens", lambda objective: False)
        policy = make_policy()
        learner = Learner(
            policy, made, accelerator=Accelerator(cpu=True), lr=1e-3, total_updates=9, version=4, micro_batch_tokens=60,
            reference=make_policy(seed=1),
        )  # fmt: skip
        assert learner._one_pass is pieces
        totals, _ = learner.accumulate(samples)
        results.append((torch.cat([p.grad.flatten() for p in policy.module.parameters()]), totals))
    (one, totals), (other, others) = results
    assert ((one - other).norm() / other.norm()).item() < 1e-10
    assert totals == pytest.approx(others, rel=1e-10)
