"""Truncated sampling (top-k, top-p, min-p) from the engine to the gradient: the ratio is exact."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from rlcore.credit.group import group_samples
from rlcore.errors import EngineError, LearnerError
from rlcore.learner.pack import pack
from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.rollout.engine import generate
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.scripted import ScriptedEngine
from rlcore.types import Group, Request, Rollout, Sampling, Task, Turn, Verdict

CONFIG = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
PROMPT = [72, 101, 108]
TRUNCATIONS = {
    "top_p": {"top_p": 0.6},
    "top_k": {"top_k": 7},
    "min_p": {"min_p": 0.3},
    "all": {"top_k": 40, "top_p": 0.8, "min_p": 0.05, "temperature": 0.7},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("policy")
    load_policy(config=CONFIG, tokenizer="bytes", dtype="float32").save(path)
    return path


def sampled(folder: Path, **settings):
    """Completions of four requests, with what sampling kept."""
    sampling = Sampling(max_tokens=12, ignore_eos=True, keep_support=True, **settings)
    requests = [
        Request(id=f"t#{i}", prompt_ids=PROMPT, sampling=sampling, seed=i) for i in range(4)
    ]
    return generate(HfEngine(folder, max_length=64), requests, 60)


def samples_of(completions, temperature=1.0, dropped=()):
    """Through turns, rollouts and credit, as in a run."""
    rollouts = []
    for completion in completions:
        turn = Turn(
            role="completion",
            token_ids=completion.token_ids,
            logprobs=completion.logprobs,
            versions=completion.versions,
            temperature=temperature,
            finish=completion.finish,
            support=None if "support" in dropped else completion.support,
        )
        prompt = Turn(role="prompt", token_ids=PROMPT)
        id = completion.request_id
        rollouts.append(Rollout(id=id, task_id="t", turns=(prompt, turn), text=""))
    group = Group(
        task=Task(id="t", prompt=""),
        rollouts=rollouts,
        verdicts=[Verdict(value=float(i)) for i in range(len(rollouts))],
    )
    return group_samples(group)


def learner_of(policy, name="dapo", version=0, **settings):
    return Learner(
        policy,
        objective(name, **settings),
        accelerator=Accelerator(cpu=True),
        lr=1e-3,
        total_updates=4,
        clip_norm=1e9,
        version=version,
    )


def step(learner, samples):
    """Report and gradient of one update."""
    gradients = []
    parameters = list(learner.policy.model.parameters())
    learner._optimizer.optimizer.register_step_pre_hook(
        lambda *_: gradients.extend(p.grad.flatten().clone() for p in parameters)
    )
    report = learner.update(samples)
    return report, torch.cat(gradients)


@pytest.mark.parametrize("one_pass", [True, False])
@pytest.mark.parametrize("name", TRUNCATIONS)
def test_the_ratio_is_one_on_policy(folder, name, one_pass):
    settings = TRUNCATIONS[name]
    temperature = settings.get("temperature", 1.0)
    completions = sampled(folder, **settings)
    sizes = [len(kept) for completion in completions for kept in completion.support]
    assert 1 < max(sizes) < 256
    preset = "dapo" if one_pass else "gspo"  # which sums over sequences

    def report(samples):
        learner = learner_of(load_policy(path=str(folder), dtype="float32"), preset)
        assert learner._one_pass == one_pass
        return step(learner, samples)[0]

    exact = report(samples_of(completions, temperature))
    assert exact.ratio_max == pytest.approx(1, abs=1e-4)
    assert abs(exact.kl) < 1e-8 and exact.entropy >= 0
    # Without the support the learner's softmax is over the whole vocabulary: the ratio is wrong.
    assert report(samples_of(completions, temperature, dropped=["support"])).kl > 0.01


@pytest.mark.parametrize("name", TRUNCATIONS)
def test_log_probabilities_are_the_recorded_ones(folder, name):
    settings = TRUNCATIONS[name]
    temperature = settings.get("temperature", 1.0)
    samples = samples_of(sampled(folder, **settings), temperature)
    policy = load_policy(path=str(folder), dtype="float32")
    for layout in ("packed", "shared"):
        for batch in pack(samples, max_tokens=40, layout=layout):
            inputs = (batch.token_ids, batch.positions, batch.lengths, batch.source, batch.target)
            logp, _ = policy.module(*inputs, batch.temperature, batch.parents, batch.support)
            assert (logp - batch.behaviour).abs().max() < 2e-5


def reference_gradient(folder, samples, temperature, kl=0.0):
    """Padded-free float64 loss, one sequence after the other: DAPO's, over the kept tokens of each position."""
    policy = load_policy(path=str(folder), dtype="float64")
    policy.model.set_attn_implementation("sdpa")  # the eager one takes its softmax in fp32
    tokens = sum(sum(sample.mask) for sample in samples)
    loss = 0.0
    for sample in samples:
        ids = torch.tensor([sample.token_ids])
        z = policy.model(input_ids=ids).logits[0] / temperature
        for position, trained in enumerate(sample.mask):
            if not trained:
                continue
            kept = sample.support[position]
            log_p = z[position - 1, kept].log_softmax(-1)
            logp = log_p[kept.index(sample.token_ids[position])]
            ratio = (logp - sample.logprobs[position]).exp()
            advantage = sample.advantages[position]
            clipped = ratio.clamp(0.8, 1.28)
            entropy = -(log_p.exp() * log_p).sum()
            surrogate = torch.minimum(ratio * advantage, clipped * advantage)
            loss = loss - (surrogate + 0.1 * entropy) / tokens
    loss.backward()
    return torch.cat([p.grad.flatten() for p in policy.model.parameters()])


@pytest.mark.parametrize("max_tokens", [16, 8192])
@pytest.mark.parametrize("name", TRUNCATIONS)
def test_off_policy_gradient_equals_a_reference_over_the_kept_tokens(folder, name, max_tokens):
    settings = TRUNCATIONS[name]
    temperature = settings.get("temperature", 1.0)
    samples = samples_of(sampled(folder, **settings), temperature)
    noise = torch.randn(64, generator=torch.Generator().manual_seed(0)).tolist()
    moved = [
        replace(
            sample,
            logprobs=[value + 0.2 * n for value, n in zip(sample.logprobs, noise, strict=False)],
        )
        for sample in samples
    ]

    def gradient(samples):
        policy = load_policy(path=str(folder), dtype="float64")
        learner = learner_of(policy, "dapo", version=1, entropy=0.1)
        learner.micro_batch_tokens = max_tokens
        return step(learner, samples)[1]

    want = reference_gradient(folder, moved, temperature)
    got = gradient(moved)
    assert got.isfinite().all()
    assert ((got - want).norm() / want.norm()).item() < 1e-9
    planted = [
        replace(s, support=[None if kept is None else list(range(256)) for kept in s.support])
        for s in moved
    ]
    assert ((gradient(planted) - want).norm() / want.norm()).item() > 1e-2


def test_a_support_without_its_token_is_met_with_a_sentence(folder):
    samples = samples_of(sampled(folder, top_k=7))
    wrong = replace(
        samples[0], support=[None if kept is None else [0] for kept in samples[0].support]
    )
    with pytest.raises(LearnerError, match="not among the 1 tokens that truncated sampling kept"):
        learner_of(load_policy(path=str(folder), dtype="float32")).update([wrong])


def test_without_truncation_nothing_is_kept(folder):
    for settings in ({}, {"temperature": 0.0, "top_k": 3}):
        completions = sampled(folder, **settings)
        assert all(completion.support is None for completion in completions)
    samples = samples_of(sampled(folder))
    assert samples[0].support is None
    assert all(batch.support is None for batch in pack(samples, max_tokens=99))


def test_a_kl_to_an_equal_reference_is_zero_over_the_kept_tokens(folder):
    samples = samples_of(sampled(folder, top_p=0.6))
    learner = learner_of(load_policy(path=str(folder), dtype="float32"), kl=1.0)
    report, _ = step(learner, samples)
    assert abs(report.losses["kl"]) < 1e-8


def test_an_engine_that_does_not_report_what_it_kept_is_refused():
    sampling = Sampling(max_tokens=4, top_p=0.9, keep_support=True)
    engine = ScriptedEngine(lambda request: [4, 1])
    engine.submit([Request(id="r", prompt_ids=[1], sampling=sampling, seed=0)])
    with pytest.raises(EngineError, match="does not report them"):
        engine.poll(0.1)
