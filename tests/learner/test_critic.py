"""The critic: what its values are of, its loss and gradient against PPO's formula in float64, and that it learns known values."""

import random
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from tiny_model import TINY
from transformers import AutoModelForSequenceClassification

from rlcore.errors import ModelError
from rlcore.learner.critic import Critic, ValueModule, load_critic, target, value_loss
from rlcore.learner.policy import load_policy
from rlcore.learner.updates import run_updates
from rlcore.objective import Counts, Tokens
from rlcore.types import Sample


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A policy and the folder that holds it."""
    policy = load_policy(config=TINY, tokenizer="bytes", dtype="float64", seed=3)
    folder = tmp_path_factory.mktemp("policy")
    policy.save(folder)
    return policy, folder


def make_critic(saved, tmp_path, *, value_clip=0.2, **settings):
    policy, folder = saved
    model = load_critic(folder, policy.tokenizer, folder=tmp_path / "start", dtype="float64")
    defaults = {"lr": 1e-3, "total_updates": 99, "optimizer": "adamw", "micro_batch_tokens": 60}
    return Critic(model, accelerator=Accelerator(cpu=True), value_clip=value_clip, **defaults | settings)


def make_samples(n, *, seed=0, length=9):
    draw = random.Random(seed)
    samples = []
    for i in range(n):
        ids = [draw.randrange(60, 90) for _ in range(length + i % 3)]
        mask = [False, False] + [draw.random() < 0.7 for _ in ids[2:]]
        mask[-1] = True
        zeros = [0.0] * len(ids)
        samples.append(Sample(id=f"s{i}", token_ids=ids, mask=mask, advantages=zeros, logprobs=zeros))
    return samples


def random_head(critic, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        critic._module.head.weight.normal_(0, 0.3, generator=generator)
        critic._module.head.bias.fill_(0.1)


def value_by_transformers(critic, sample):
    """V of each state, from the decoder's own padded forward: the value of token t is read at t - 1."""
    decoder = critic._module.model
    decoder.config._attn_implementation = "eager"
    with torch.no_grad():
        hidden = decoder(input_ids=torch.tensor([sample.token_ids])).last_hidden_state[0]
        values = hidden @ critic._module.head.weight[0] + critic._module.head.bias
    return [values[t - 1].item() if on else 0.0 for t, on in enumerate(sample.mask)]


def test_values_are_0_at_first_and_of_the_state_before_each_trained_token(saved, tmp_path):
    critic = make_critic(saved, tmp_path)
    samples = make_samples(7)
    assert all(set(values) == {0.0} for values in critic.values(samples))
    random_head(critic)
    got = critic.values(samples)
    for sample, values in zip(samples, got, strict=True):
        # a value must not see its own token: it does not change with it
        changed = replace(sample, token_ids=[*sample.token_ids[:-1], 7])
        [again] = critic.values([changed])
        assert again == pytest.approx(values, abs=1e-12)
    implementation = critic._module.model.config._attn_implementation
    expected = [value_by_transformers(critic, sample) for sample in samples]
    critic._module.model.config._attn_implementation = implementation
    for values, of_sample in zip(got, expected, strict=True):
        assert values == pytest.approx(of_sample, abs=1e-5)


def clipped_loss(value, old, returns, clip):
    """PPO2's: 0.5 mean(max((V - R)^2, (old + clip(V - old) - R)^2)), written with conditions in place of clamp."""
    total = 0.0
    for v, o, r in zip(value, old, returns, strict=True):
        if clip is not None and abs((v - o).item()) > clip:
            moved = o + clip if v > o else o - clip
        else:
            moved = v
        first, second = (v - r) ** 2, (moved - r) ** 2
        total = total + (first if first > second else second)
    return total / (2 * len(value))


@pytest.mark.parametrize("clip", [None, 0.2, 1.0])
def test_the_loss_and_its_gradient_are_those_of_ppo(clip):
    generator = torch.Generator().manual_seed(1)
    value, old, returns = (
        torch.randn(200, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    one = torch.ones(200, dtype=torch.float64)
    rows = torch.zeros(200, dtype=torch.int64)
    live, by_hand = value.clone().requires_grad_(), value.clone().requires_grad_()
    tokens = Tokens(live, old, old, None, 0 * one, returns, one, rows, 1)
    [term] = value_loss(clip).terms
    loss = term(tokens, Counts(200, 1))
    expected = clipped_loss(by_hand, old, returns, clip)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    [gradient] = torch.autograd.grad(loss, live)
    [wanted] = torch.autograd.grad(expected, by_hand)
    assert torch.allclose(gradient, wanted, rtol=1e-12, atol=1e-15)
    clipped = gradient == 0
    assert clipped.any() == (clip is not None) and not clipped.all()


def test_an_update_is_a_gradient_step_on_that_loss(saved, tmp_path):
    """Through packing in several micro-batches: the weights' gradients equal those of the loss on padded forwards."""
    critic = make_critic(saved, tmp_path, optimizer="sgd", betas=(0.0, 0.0), lr=0.5, clip_norm=1e9)
    random_head(critic)
    samples = make_samples(6)
    generator = torch.Generator().manual_seed(5)
    targets = []
    for sample, values in zip(samples, critic.values(samples), strict=True):
        shift = 0.4 * torch.randn(2, len(values), generator=generator, dtype=torch.float64)
        old = [v + s for v, s in zip(values, shift[0].tolist(), strict=True)]
        targets.append(target(sample, old, (torch.tensor(values) + shift[1]).tolist()))
    module = critic._module
    value, old, returns = [], [], []
    for sample in targets:
        ids = torch.tensor(sample.token_ids)
        length = (len(ids),)
        positions = torch.arange(len(ids))
        source = positions[torch.tensor(sample.mask)] - 1
        values, _ = module(ids, positions, length, source, source)
        value.append(values)
        old += [v for v, on in zip(sample.old_logprobs, sample.mask, strict=True) if on]
        returns += [v for v, on in zip(sample.advantages, sample.mask, strict=True) if on]
    pairs = [torch.tensor(x, dtype=torch.float64) for x in (old, returns)]
    loss = clipped_loss(torch.cat(value), *pairs, 0.2)
    wanted = torch.autograd.grad(loss, list(module.parameters()))
    before = [p.detach().clone() for p in module.parameters()]
    report = critic.learner.update(targets)
    assert report.loss == pytest.approx(loss.item(), rel=1e-10)
    for p, was, gradient in zip(module.parameters(), before, wanted, strict=True):
        assert torch.allclose((was - p) / 0.5, gradient, rtol=1e-8, atol=1e-11)


def coin_flips(n, *, seed):
    """Completions of 6 fair coins after a prompt; the reward is the fraction of heads, so V after k coins is
    (heads + (6 - k) / 2) / 6: (samples with the reward as the return of all tokens, the true values)."""
    draw = random.Random(seed)
    samples, truths = [], []
    for i in range(n):
        coins = [draw.random() < 0.5 for _ in range(6)]
        ids = [65, *(72 if heads else 84 for heads in coins)]
        values = [(sum(coins[:k]) + (6 - k) / 2) / 6 for k in range(6)]
        returns = [0.0] + [sum(coins) / 6] * 6
        samples.append(
            Sample(
                id=f"{seed}/{i}",
                token_ids=ids,
                mask=[False] + [True] * 6,
                advantages=returns,
                old_logprobs=[0.0] * 7,
            )
        )
        truths.append(values)
    return samples, truths


def test_a_critic_learns_a_known_value_function(saved, tmp_path):
    """From sampled returns alone, whose own variance is larger than that of the values."""
    policy, folder = saved
    model = load_critic(folder, policy.tokenizer, folder=tmp_path / "start", dtype="float32")
    critic = Critic(
        model,
        accelerator=Accelerator(cpu=True),
        value_clip=None,
        lr=3e-3,
        total_updates=70,
        schedule="cosine",
        warmup_steps=5,
    )
    for update in range(70):
        samples, _ = coin_flips(64, seed=update)
        critic.learner.update(samples)
    held_out, truths = coin_flips(200, seed=10**6)
    got = torch.tensor(critic.values(held_out))[:, 1:].flatten()
    truth = torch.tensor(truths).flatten()
    r2 = 1 - (got - truth).square().mean() / truth.var()
    assert r2 > 0.95


def test_several_updates_a_step_are_clipped_around_the_values_before_them(saved, tmp_path):
    """With a tiny clip the later updates find every value beyond it, so their gradient is 0."""

    def trained(clip):
        critic = make_critic(saved, tmp_path, value_clip=clip, optimizer="sgd", lr=0.01)
        samples = make_samples(4)
        targets = [
            target(sample, values, [1.0] * len(values))
            for sample, values in zip(samples, critic.values(samples), strict=True)
        ]
        run_updates(
            critic.learner,
            [((0,), targets)],
            update_epochs=4,
            by="sequence",
            old_logprobs="engine",
            seed=0,
        )
        means = [sum(v) / sum(s.mask) for s, v in zip(samples, critic.values(samples), strict=True)]
        return sum(means) / len(means)

    assert trained(None) > 1.5 * trained(1e-6) > 0


def test_state_is_complete(saved, tmp_path):
    """Two updates, or one, a new critic with the first one's state, and another: the same bits."""
    samples = make_samples(5)

    def targets_of(critic):
        values = critic.values(samples)
        return [target(s, v, [0.7] * len(v)) for s, v in zip(samples, values, strict=True)]

    first = make_critic(saved, tmp_path)
    first.learner.update(targets_of(first))
    state = {key: value for key, value in first.state_dict().items()}
    torch.save(state, tmp_path / "state.pt")
    first.learner.update(targets_of(first))
    second = make_critic(saved, tmp_path)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second.learner.update(targets_of(second))
    for one, other in zip(first._module.parameters(), second._module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_reward_model_gives_its_decoder_and_its_head(saved, tmp_path):
    policy, folder = saved
    reward = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float64)
    with torch.no_grad():
        reward.score.weight.normal_(0, 0.2)
    reward.save_pretrained(tmp_path / "reward")
    policy.tokenizer.save_pretrained(tmp_path / "reward")
    model = load_critic(
        tmp_path / "reward", policy.tokenizer, folder=tmp_path / "start", dtype="float64"
    )
    critic = Critic(
        model, accelerator=Accelerator(cpu=True), value_clip=None, lr=1e-3, total_updates=1
    )
    [sample] = make_samples(1)
    [values] = critic.values([sample])
    reward.config.pad_token_id = 0
    read = sample.token_ids[: len(sample.token_ids) - 1]
    with torch.no_grad():
        score = reward(input_ids=torch.tensor([read])).logits.item()
    assert values[-1] == pytest.approx(score, abs=1e-5) and score != 0


def test_what_a_critic_cannot_start_from_gets_a_sentence(saved, tmp_path):
    policy, folder = saved
    several = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    several.save_pretrained(tmp_path / "several")
    policy.tokenizer.save_pretrained(tmp_path / "several")
    with pytest.raises(ModelError, match="one label"):
        load_critic(tmp_path / "several", policy.tokenizer, folder=tmp_path / "start")

    class Other:
        def get_vocab(self):
            return {"a": 0}

    with pytest.raises(ModelError, match="another tokenizer"):
        load_critic(folder, Other(), folder=tmp_path / "start")


def test_a_critic_has_no_language_model_head(saved, tmp_path):
    names = {name for name, _ in make_critic(saved, tmp_path)._module.named_parameters()}
    assert not any("lm_head" in name for name in names) and {"head.weight", "head.bias"} < names
    assert issubclass(ValueModule, torch.nn.Module)
