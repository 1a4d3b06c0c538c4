"""Methods with a critic: values and rewards -> GAE -> whitening -> gradient, against the papers' formulas in float64."""

import pytest
import torch
from test_methods import LENGTHS, REWARDS, SPREAD, groups, policy_logp, stage_of

from rlcore.credit.gae import length_adaptive, reward_samples, with_values
from rlcore.credit.whiten import whitened
from rlcore.objective import Counts, Tokens
from rlcore.objective.methods import METHODS
from rlcore.recipe.build_credit import build_credit
from rlcore.recipe.build_learner import build_objective

CRITICS = [name for name, method in METHODS.items() if method.baseline == "critic"]


def values_of(samples):
    generator = torch.Generator().manual_seed(9)
    return [
        [
            torch.rand(len(sample.token_ids), generator=generator, dtype=torch.float64).tolist()
            for sample in of_group
        ]
        for of_group in samples
    ]


def credit_of(section):
    def credit(made):
        samples = reward_samples(made)
        alpha = section.length_adaptive
        credited, _ = with_values(
            made,
            samples,
            values_of(samples),
            gamma=section.gamma,
            policy_lambda=lambda n: section.gae_lambda if alpha is None else length_adaptive(alpha, n),
            value_lambda=1.0,
        )
        return credited

    return whitened(credit)


def paper_advantages(lam_of):
    """Whitened GAE of every token, by matrix: A = (I - gamma lambda S)^-1 (r + S V - V), S the shift by one token."""
    samples = reward_samples(groups())
    everything = []
    flat_values = [v for of_group in values_of(samples) for v in of_group]
    flat_lengths = [n for of_group in LENGTHS for n in of_group]
    flat_rewards = [r for of_group in REWARDS for r in of_group]
    for values, n, reward in zip(flat_values, flat_lengths, flat_rewards, strict=True):
        v = torch.tensor(values[2:], dtype=torch.float64)
        shift = torch.diag(torch.ones(n - 1, dtype=torch.float64), 1)
        r = torch.zeros(n, dtype=torch.float64)
        r[-1] = reward
        system = torch.eye(n, dtype=torch.float64) - lam_of(n) * shift
        everything.append(torch.linalg.solve(system, r + shift @ v - v))
    tokens = torch.cat(everything)
    return (tokens - tokens.mean()) / tokens.std(correction=0)


@pytest.mark.parametrize(
    ("name", "high", "lam_of"),
    [
        ("ppo", 0.2, lambda n: 0.95),
        ("vc_ppo", 0.2, lambda n: 0.95),
        ("vapo", 0.28, lambda n: max(0.0, 1 - 1 / (0.05 * n))),
    ],
)
def test_the_gradient_is_the_paper_s(name, high, lam_of):
    stage = stage_of(method=name, steps=100)
    made = build_credit(stage.credit, critic=credit_of(stage.critic))(groups())
    samples = [sample for group in made for sample in group if sample.stream == "policy"]
    aim = build_objective(stage.objective, max_tokens=20)
    live = policy_logp()
    logp = torch.cat([live[sample.id] for sample in samples])
    old = torch.tensor([x for s in samples for x in s.logprobs[2:]], dtype=torch.float64)
    given = torch.tensor([x for s in samples for x in s.advantages[2:]], dtype=torch.float64)
    one = torch.ones_like(old)
    row = torch.tensor([i for i, s in enumerate(samples) for _ in s.logprobs[2:]])
    flat = logp.clone().requires_grad_()
    tokens = Tokens(flat, old, old, None, one, given, one, row, len(samples))
    [term] = [term for term in aim.terms if term.stream == "policy"]
    got = torch.autograd.grad(term(tokens, Counts(len(row), len(samples))), flat)[0]

    advantage = paper_advantages(lam_of)
    by_hand = logp.clone().requires_grad_()
    ratio = (by_hand - old).exp()
    loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1 + high) * advantage).mean()
    wanted = torch.autograd.grad(loss, by_hand)[0]
    assert torch.allclose(got, wanted, rtol=1e-9, atol=1e-12)
    assert 0.05 < (wanted == 0).double().mean() < 0.8 and SPREAD > 0.2


def test_the_settings_are_the_papers():
    assert CRITICS == ["ppo", "vc_ppo", "vapo"]
    critics = {name: stage_of(method=name, steps=100).critic for name in CRITICS}
    assert {(c.gamma, c.gae_lambda, c.value_clip, c.whiten) for c in critics.values()} == {
        (1.0, 0.95, 0.2, True)
    }
    pretrained = [(c.pretrain_steps, c.value_lambda, c.length_adaptive) for c in critics.values()]
    assert pretrained == [(0, None, None), (50, 1.0, None), (50, 1.0, 0.05)]


def test_vapo_imitates_the_correct_completions_beside_its_loss():
    stage = stage_of(method="vapo", steps=100)
    [first, *_] = build_credit(stage.credit, critic=credit_of(stage.critic))(groups())
    again = [sample for sample in first if sample.stream == "demonstration"]
    assert [sample.id for sample in again] == ["0#0", "0#3"]  # rewards 1, 0, 0, 1
    for sample in again:
        [own] = [each for each in first if each.id == sample.id and each.stream == "policy"]
        assert (sample.token_ids, sample.mask) == (own.token_ids, own.mask)
        assert sample.logprobs is None and sample.advantages == [float(on) for on in own.mask]
    assert not stage.imitates  # its tasks need no demonstrations
