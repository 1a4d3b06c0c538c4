"""Optimisers by name, and the averaged weights."""

import sys

import pytest
import torch
from test_update import make_learner, make_samples, parameters

from rlcore.errors import LearnerError
from rlcore.learner.optim import OPTIMIZERS, Average, adamw

SETTINGS = {"lr": 0.1, "betas": (0.9, 0.95), "weight_decay": 0.3}
needs_muon = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
NAMES = ["adamw", pytest.param("muon", marks=needs_muon), "sgd"]


def test_vectors_do_not_decay():
    optimizer = adamw(torch.nn.Linear(3, 2), **SETTINGS)
    seen = [
        (group["weight_decay"], [p.ndim for p in group["params"]])
        for group in optimizer.param_groups
    ]
    assert seen == [(0.3, [2]), (0.0, [1])]


@pytest.mark.parametrize("name", NAMES)
def test_resumes_bit_for_bit(make_policy, name):
    batches = [make_samples(seed=s) for s in range(4)]
    settings = {"optimizer": name, "ema": 0.5, "schedule": "linear", "total_updates": 4}
    whole = make_learner(make_policy("float32"), **settings)
    reports = [whole.update(batch) for batch in batches]
    first = make_learner(make_policy("float32"), **settings)
    for batch in batches[:2]:
        first.update(batch)
    second = make_learner(make_policy("float32", seed=9), **settings)
    second.policy.module.load_state_dict(first.policy.module.state_dict())
    second.load_state_dict(first.state_dict())
    assert [second.update(batch) for batch in batches[2:]] == reports[2:]
    assert torch.equal(parameters(second), parameters(whole))
    assert all(
        torch.equal(v, whole.average.state_dict()["mean"][k])
        for k, v in second.average.state_dict()["mean"].items()
    )


def test_moments_of_another_learner_under_settings_of_its_own(make_policy):
    """The next update is AdamW's of Algorithm 2 (arXiv 1711.05101) by hand, from the moments of two updates before it."""
    first = make_learner(make_policy("float64"), lr=0.01, betas=(0.9, 0.95), schedule="linear", total_updates=2)
    for seed in (0, 1):
        first.update(make_samples(seed=seed))
    state = first.state_dict()
    own = {"lr": 0.03, "betas": (0.8, 0.9), "weight_decay": 0.2, "clip_norm": 1e9, "schedule": "constant", "warmup_steps": 2}
    second = make_learner(make_policy("float64"), **own)
    second.policy.module.load_state_dict(first.policy.module.state_dict())
    second.take_moments(state)
    batch = make_samples(seed=2)
    second.accumulate(batch)
    named = [(p, p.detach().clone(), p.grad.clone()) for p in second.policy.module.parameters()]
    moments = first._optimizer.optimizer.state
    of_first = {id(a): moments[b] for a, b in zip(second.policy.module.parameters(), first.policy.module.parameters(), strict=True)}
    expected = []
    for parameter, before, gradient in named:
        m = 0.8 * of_first[id(parameter)]["exp_avg"] + 0.2 * gradient
        v = 0.9 * of_first[id(parameter)]["exp_avg_sq"] + 0.1 * gradient**2
        step = (m / (1 - 0.8**3)) / ((v / (1 - 0.9**3)).sqrt() + 1e-8)
        decay = 0.2 if parameter.ndim >= 2 else 0.0
        expected.append(before - 0.03 / 2 * (step + decay * before))
    report = second.update(batch)
    assert report.lr == 0.03 / 2, "the first of two updates of its own warm-up"
    for (parameter, _, _), value in zip(named, expected, strict=True):
        assert torch.allclose(parameter, value, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_moments_of_each_optimiser(make_policy, name):
    """Under equal settings and a constant rate, taking the moments is going on, bit for bit."""
    batches = [make_samples(seed=s) for s in range(4)]
    whole = make_learner(make_policy("float32"), optimizer=name)
    reports = [whole.update(batch) for batch in batches]
    first = make_learner(make_policy("float32"), optimizer=name)
    for batch in batches[:2]:
        first.update(batch)
    second = make_learner(make_policy("float32", seed=9), optimizer=name)
    second.policy.module.load_state_dict(first.policy.module.state_dict())
    second.take_moments(first.state_dict())
    assert second.updates == 0
    assert [second.update(batch).grad_norm for batch in batches[2:]] == [report.grad_norm for report in reports[2:]]
    assert torch.equal(parameters(second), parameters(whole))


@needs_muon
def test_muon_moves_matrices_by_an_orthogonal_step_and_leaves_the_rest_to_adamw(make_policy):
    policies = [make_policy("float32", tie_word_embeddings=False) for _ in range(2)]
    before = {name: p.detach().clone() for name, p in policies[0].module.named_parameters()}
    for policy, optimizer in zip(policies, ("muon", "adamw"), strict=True):
        make_learner(policy, optimizer=optimizer, lr=1e-2, clip_norm=1e9).update(make_samples())
    other = dict(policies[1].module.named_parameters())
    for name, p in policies[0].module.named_parameters():
        moved = p.detach() - before[name]
        if p.ndim == 2 and "embed" not in name and "lm_head" not in name:
            singular = torch.linalg.svdvals(moved) / (1e-2 * 0.2 * max(p.shape) ** 0.5)
            assert 0.3 < singular[len(singular) // 2] < 1.4, (
                name
            )  # torch's five iterations bring them to about 0.7 to 1.2
            assert not torch.equal(p, other[name])
        else:
            assert torch.equal(p, other[name]), name


def test_sgd_is_momentum(make_policy):
    policy = make_policy()
    start = parameters(make_learner(policy))
    learner = make_learner(policy, optimizer="sgd", lr=0.5, betas=(0.8, 0.0), clip_norm=1e9)
    grads, want, velocity = [], start.clone(), torch.zeros_like(start)
    learner._optimizer.optimizer.register_step_pre_hook(
        lambda *_: grads.append(torch.cat([p.grad.flatten() for p in policy.module.parameters()]))
    )
    for seed in range(3):
        learner.update(make_samples(seed=seed))
        velocity = 0.8 * velocity + grads[-1]
        want -= 0.5 * velocity
    assert torch.allclose(parameters(learner), want, rtol=1e-12, atol=1e-14)


def test_eight_bit_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(LearnerError, match="pip install bitsandbytes"):
        OPTIMIZERS["adamw8bit"](torch.nn.Linear(3, 2), **SETTINGS)


def test_the_average_has_its_closed_form_and_gives_the_weights_back(make_policy):
    """mean_k = d^k w_0 + (1 - d) sum_j d^(k - j) w_j."""
    policy, d = make_policy("float32"), 0.9
    learner = make_learner(policy, ema=d)
    history = [parameters(learner).double()]
    for seed in range(4):
        learner.update(make_samples(seed=seed))
        history.append(parameters(learner).double())
    k = len(history) - 1
    want = d**k * history[0] + sum((1 - d) * d ** (k - j) * history[j] for j in range(1, k + 1))
    own = parameters(learner)
    with learner.average.applied():
        assert (
            (parameters(learner) - want).abs().max()
            < 1e-6
            < (parameters(learner) - own).abs().max()
        )
    assert torch.equal(parameters(learner), own)


def test_the_average_of_half_precision_is_float32():
    """0.999 in bfloat16 would be 1: the mean would never move."""
    layer = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    torch.nn.init.zeros_(layer.weight)
    average = Average(layer, 0.999)
    torch.nn.init.ones_(layer.weight)
    for _ in range(10):
        average.update()
    assert average.state_dict()["mean"]["weight"].item() == pytest.approx(1 - 0.999**10, rel=1e-5)
