"""The one-file GRPO is the engine's: same advantages, log-probabilities, gradient and update on the same rollouts; it learns."""

import copy
import importlib.util
import random
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from rlcore.credit.group import group_samples
from rlcore.learner.policy import PackedModule, Policy, check_packed
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.tokenizer import byte_tokenizer
from rlcore.types import Group, Rollout, Task, Verdict

PATH = Path(__file__).resolve().parent.parent / "recipes" / "minimal_loop.py"
GROUPS, ATTEMPTS = 6, 5


@pytest.fixture(scope="module")
def minimal():
    spec = importlib.util.spec_from_file_location("minimal_loop", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["minimal_loop"] = module
    spec.loader.exec_module(module)
    return module


def rollouts_of(minimal, policy, *, off_policy):
    """Groups of rollouts and their rewards; off-policy, the recorded log-probabilities are moved so far that many tokens clip."""
    rng = random.Random(1)
    torch.manual_seed(1)
    prompts = minimal.draw_prompts(rng, GROUPS)
    groups = minimal.sample(policy, prompts, ATTEMPTS)
    for rollout in [rollout for group in groups for rollout in group]:
        if off_policy:
            rollout.logprobs = [
                value + rng.uniform(-0.5, 0.5) * wrote
                for value, wrote in zip(rollout.logprobs, rollout.mask, strict=True)
            ]
    rewards = [
        [minimal.reward(p, r.completion_ids) for r in group]
        for p, group in zip(prompts, groups, strict=True)
    ]
    rewards[2] = [0.5] * ATTEMPTS  # a group that says nothing
    return groups, rewards


def engine_samples(groups, rewards):
    samples = []
    for i, (group, values) in enumerate(zip(groups, rewards, strict=True)):
        rollouts = [
            Rollout.from_tokens(
                id=f"{i}/{j}", task_id=str(i), token_ids=r.token_ids, mask=r.mask, logprobs=r.logprobs, text="", finish="stop",
                version=0,
            )
            for j, r in enumerate(group)
        ]  # fmt: skip
        verdicts = [Verdict(value=value) for value in values]
        samples += group_samples(
            Group(task=Task(id=str(i), prompt=""), rollouts=rollouts, verdicts=verdicts)
        )
    return samples


def engine_learner(policy, *, off_policy, clip_norm):
    model = copy.deepcopy(policy)
    check_packed(model)
    engine = Policy(PackedModule(model), byte_tokenizer(), 16)
    return Learner(
        engine, objective("grpo"), accelerator=Accelerator(cpu=True), lr=1e-3, total_updates=9, clip_norm=clip_norm,
        version=int(off_policy), micro_batch_tokens=30,
    )  # fmt: skip


@pytest.mark.parametrize("off_policy", [False, True])
def test_same_advantages_gradient_and_update(minimal, monkeypatch, off_policy):
    policy = minimal.make_policy().double()
    groups, rewards = rollouts_of(minimal, policy, off_policy=off_policy)
    samples = engine_samples(groups, rewards)
    kept = [i for i, values in enumerate(rewards) if any(minimal.credit(values))]
    rollouts = [rollout for i in kept for rollout in groups[i]]
    advantages = [advantage for i in kept for advantage in minimal.credit(rewards[i])]
    assert len({len(rollout.token_ids) for rollout in rollouts}) > 1 and len(kept) < GROUPS
    assert [sample.token_ids for sample in samples] == [rollout.token_ids for rollout in rollouts]
    assert [sample.advantages[-1] for sample in samples] == pytest.approx(advantages, abs=1e-14)

    learner = engine_learner(policy, off_policy=off_policy, clip_norm=minimal.CLIP_NORM)
    scores = learner.policy.score([rollout.token_ids for rollout in rollouts])
    logp = minimal.logprobs_of(policy, rollouts)
    for row, score in zip(logp, scores, strict=True):
        assert row[1 : len(score) + 1].tolist() == pytest.approx(score, abs=1e-10)

    minimal.backward(policy, rollouts, advantages)
    ours = {name: p.grad.clone() for name, p in policy.named_parameters()}
    theirs = {}
    clip = learner.accelerator.clip_grad_norm_

    def before_clipping(*inputs):
        theirs.update({name: p.grad.clone() for name, p in learner.policy.model.named_parameters()})
        return clip(*inputs)

    monkeypatch.setattr(learner.accelerator, "clip_grad_norm_", before_clipping)
    report = learner.update(samples)
    assert report.sequences == len(rollouts) and (report.clip_frac > 0.1) == off_policy
    size = max(grad.abs().max() for grad in ours.values())
    assert size > 0.01
    for name, grad in ours.items():
        assert (grad - theirs[name]).abs().max() < 1e-10 * size, name

    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    minimal.step(policy, optimizer, rollouts, advantages)
    for (name, p), q in zip(
        policy.named_parameters(), learner.policy.model.parameters(), strict=True
    ):
        assert (p - q).abs().max() < 1e-7, (
            name
        )  # AdamW's first update divides by |gradient|, which may be 1e-17


def test_it_is_one_short_file_on_torch_and_transformers_alone():
    text = PATH.read_text()
    assert text.count("\n") < 300 and "import rlcore" not in text and "from rlcore" not in text


def test_the_reward_goes_up(minimal, capsys):
    history = minimal.main(steps=60)
    assert sum(history[-10:]) / 10 > sum(history[:10]) / 10 + 0.15
    assert "reward" in capsys.readouterr().out
