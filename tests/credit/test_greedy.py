"""ReMax: the reward of the greedy completion is the baseline, against the paper's estimator."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rlcore.credit.greedy import Greedy
from rlcore.errors import RecipeError
from rlcore.objective import Counts, Tokens, objective
from rlcore.recipe.build_credit import build_credit, build_step_values
from rlcore.rollout.open_group import plan_continuations
from rlcore.types import Prefix, Sampling
from tests.credit.chains import GOOD, LOST, SLIP, group, interleaved
from tests.credit.test_step_schemes import stage

GREEDY = {"chain": [GOOD, SLIP, GOOD], "lost": [LOST]}
ANSWERS = {
    "chain": [[GOOD, GOOD], [GOOD, LOST, GOOD], [LOST]],
    "lost": [[GOOD], [LOST, LOST]],
}
"""Reward 1 without LOST: the greedy completion earns 1 for the first task and 0 for the second."""


def answered(prefixes, left_s):
    """One greedy completion of each prefix."""
    for prefix in prefixes:
        assert (prefix.n, prefix.length, prefix.temperature) == (1, 0, 0.0)
    return [group([GREEDY[prefix.task.id]], prefix.task.id) for prefix in prefixes]


def advantages(answers, continue_=answered):
    chosen = stage(use="greedy", scheme="vine")
    chosen = chosen.model_copy(
        update={"credit": chosen.credit.model_copy(update={"baseline": "zero", "zero_variance": "keep"})}
    )
    estimator = build_step_values(chosen.credit.steps, chosen, continue_, str)
    groups = [group(completions, name) for name, completions in answers.items()]
    valued, cost = estimator(groups)
    return [s for of_group in build_credit(chosen.credit)(valued) for s in of_group], cost


def test_each_completion_is_compared_with_the_greedy_one():
    samples, cost = advantages(ANSWERS)
    by_id = {s.id: [a for a, on in zip(s.advantages, s.mask, strict=True) if on] for s in samples}
    assert by_id == {
        "chain#0": [0.0, 0.0],
        "chain#1": [-1.0, -1.0, -1.0],
        "chain#2": [-1.0],
        "lost#0": [1.0],
        "lost#1": [0.0, 0.0],
    }
    assert (cost.prefixes, cost.tokens, cost.read, cost.completions) == (2, 4, 2, 5)


def test_one_completion_a_task_is_enough():
    samples, _ = advantages({"chain": [[LOST]], "lost": [[GOOD]]})
    assert [s.advantages[-1] for s in samples] == [-1.0, 1.0]


def test_the_gradient_is_the_papers():
    """Algorithm 1: the mean over completions of (r - r_greedy) grad log pi(y), by autograd."""
    samples, _ = advantages(ANSWERS)
    lengths = [sum(s.mask) for s in samples]
    generator = torch.Generator().manual_seed(0)
    logp = -torch.rand(sum(lengths), generator=generator, dtype=torch.float64)
    row = torch.repeat_interleave(torch.arange(len(samples)), torch.tensor(lengths))
    given = torch.tensor([a for s in samples for a, on in zip(s.advantages, s.mask, strict=True) if on])
    live = logp.clone().requires_grad_()
    one = torch.ones_like(logp)
    tokens = Tokens(live, logp, logp, None, one, given.double(), one, row, len(samples))
    [term] = objective("rloo").terms
    got = torch.autograd.grad(term(tokens, Counts(len(row), len(samples))), live)[0]

    by_hand = logp.clone().requires_grad_()
    loss = 0.0
    flat = [(name, tokens_) for name, completions in ANSWERS.items() for tokens_ in completions]
    for piece, (name, written) in zip(by_hand.split(lengths), flat, strict=True):
        reward = float(LOST not in written)
        baseline = float(LOST not in GREEDY[name])
        loss = loss - (reward - baseline) * piece.sum() / len(flat)
    assert torch.allclose(got, torch.autograd.grad(loss, by_hand)[0], rtol=0, atol=1e-15)


def test_a_task_without_a_greedy_score_teaches_nothing():
    def unscored(prefixes, left_s):
        made = answered(prefixes, left_s)
        first = replace(made[0], verdicts=[replace(made[0].verdicts[0], value=None, status="crashed")])
        return [first, *made[1:]]

    samples, cost = advantages(ANSWERS, unscored)
    assert [s.advantages[-1] for s in samples if s.id.startswith("chain")] == [0.0] * 3
    assert cost.left_out == 1
    # and one that is not there in time
    samples, cost = advantages(ANSWERS, lambda prefixes, s: [replace(g, rollouts=[], verdicts=[]) for g in answered(prefixes, s)])
    assert cost.left_out == 2 and not any(s.advantages[-1] for s in samples)


def test_several_turns_are_refused():
    greedy = Greedy(continue_=answered, max_tokens=8)
    with pytest.raises(RecipeError, match="the greedy baseline"):
        greedy([interleaved()])


def test_the_engine_is_asked_at_temperature_0():
    of = group([[GOOD, GOOD]])
    for temperature, asked in ((0.0, 0.0), (None, 0.7)):
        prefix = Prefix(
            task=of.task, rollout=of.rollouts[0], length=0, n=1, max_tokens=4, temperature=temperature
        )
        sampling = Sampling(max_tokens=8, temperature=0.7)
        planned = plan_continuations(prefix, batch=0, sampling=sampling, seed=0, max_length=64)
        assert [attempt.sampling.temperature for attempt in planned.attempts] == [asked]
