"""bfloat16 with float32 masters, gradient checkpointing, compilation: what may change (speed, memory) and what may not."""

import copy

import pytest
import torch
from test_update import make_learner, make_samples, parameters
from tiny_model import TINY

from rlcore.learner.module import PackedModule
from rlcore.learner.pack import pack
from rlcore.learner.policy import Policy, load_policy
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.publish import canary_gap, fingerprint, publish

DROPPING = TINY | {"attention_dropout": 0.5}


def gradient(policy, samples=None):
    """Of a fixed pull on the log-probabilities and entropies, flat."""
    for batch in pack(samples or make_samples(), max_tokens=40):
        batch = batch.to("cpu", policy.dtype)
        logp, entropy = policy.module(
            batch.token_ids, batch.positions, batch.lengths, batch.source, batch.target
        )
        (logp * batch.advantage + entropy).sum().backward()
    flat = torch.cat([p.grad.flatten() for p in policy.module.parameters() if p.requires_grad])
    policy.module.zero_grad()
    return flat


def test_small_updates_are_kept_with_masters_and_lost_without(make_policy):
    """Updates of lr 1e-6 to weights of size 0.1: bfloat16 resolves 5e-4 there, so alone it never moves them."""

    def moved(policy):
        learner = make_learner(policy, "sft", lr=1e-6)
        start = parameters(learner).float()
        for _ in range(20):
            learner.update(make_samples(has_behaviour=False))
        return (parameters(learner).float() - start).abs()[start.abs() > 0.05]

    mixed, pure = make_policy("bfloat16"), make_policy("float32")
    pure = Policy(pure.module.to(torch.bfloat16), pure.tokenizer, pure.max_length)
    kept, lost = moved(mixed), moved(pure)
    assert (lost == 0).all()
    assert (kept > 1.5e-5).float().mean() > 0.5  # 20 updates of about 1e-6 in one direction


def test_masters_compute_in_bfloat16_near_float32(make_policy):
    mixed, plain = make_policy("bfloat16"), make_policy("float32")
    assert mixed.model.dtype == mixed.dtype == torch.float32
    [[low]], [[full]] = ([policy.score([list(range(1, 30))])] for policy in (mixed, plain))
    gaps = (torch.tensor(low) - torch.tensor(full)).abs()
    assert 1e-4 < gaps.max() < 0.1
    a, b = gradient(mixed), gradient(plain)
    assert a.dtype == torch.float32 and 1e-4 < (a - b).norm() / b.norm() < 0.05


def test_served_weights_are_the_cast_of_the_masters(make_policy, tmp_path):
    policy = make_policy("bfloat16")
    policy.save(tmp_path)
    engine = HfEngine(tmp_path, dtype="bfloat16", max_length=64)
    make_learner(policy, lr=1e-4).update(make_samples())
    settings = {"canary": [[5, 6, 7, 8, 9] * 4], "score": policy.score, "served_dtype": "bfloat16"}
    settings["score_float32"] = policy.score_float32
    report = publish(policy.weights, engine, 1, **settings)
    cast = [tensor.to(torch.bfloat16) for _, tensor in policy.weights()]
    assert (
        report.fingerprint == engine.fingerprint() == fingerprint(cast) and report.gap <= report.limit
    )


def test_noise_is_that_of_the_arithmetic_not_of_the_masters(make_policy):
    """Masters that moved by less than bfloat16 resolves are another model, which no engine serves."""
    policy = make_policy("bfloat16")
    sequences = [list(range(1, 30)), list(range(40, 2, -2))]
    for parameter in policy.model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    rounded = copy.deepcopy(policy.model)
    for parameter in policy.model.parameters():
        # larger everywhere, by at most a half of what bfloat16 rounds away
        parameter.data.add_(parameter.data.abs() * 2**-10)
    masters = Policy(PackedModule(copy.deepcopy(policy.model)), policy.tokenizer, policy.max_length)
    served = Policy(PackedModule(rounded), policy.tokenizer, policy.max_length)
    gap_to_served, _ = canary_gap(policy.score_float32(sequences), served.score(sequences))
    gap_to_masters, _ = canary_gap(policy.score_float32(sequences), masters.score(sequences))
    assert gap_to_served == 0
    assert gap_to_masters > 1e-3


def test_masters_resume_bit_for_bit(make_policy, tmp_path):
    batches = [make_samples(seed=s) for s in range(3)]
    whole = make_learner(make_policy("bfloat16"), lr=1e-6)
    reports = [whole.update(batch) for batch in batches]
    first = make_learner(make_policy("bfloat16"), lr=1e-6)
    first.update(batches[0])
    first.policy.save(tmp_path)
    second = make_learner(load_policy(path=str(tmp_path), dtype="bfloat16"), lr=1e-6)
    second.load_state_dict(first.state_dict())
    assert [second.update(batch) for batch in batches[1:]] == reports[1:]
    assert torch.equal(parameters(second), parameters(whole))


class Kept:
    """Bytes that autograd keeps for the backward pass of what runs inside."""

    def __enter__(self):
        self.bytes, seen = 0, set()

        def pack_hook(tensor):
            key = (tensor.untyped_storage().data_ptr(), tensor.shape)
            self.bytes += 0 if key in seen else tensor.nbytes
            seen.add(key)
            return tensor

        self._hooks = torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *_):
        self._hooks.__exit__(*_)


def kept(policy):
    [batch] = pack(make_samples(20), max_tokens=1000)
    with Kept() as counted:
        policy.module(batch.token_ids, batch.positions, batch.lengths, batch.source, batch.target)
    return counted.bytes


@pytest.mark.parametrize("peft", [None, {"type": "lora", "r": 4, "target_modules": "all-linear"}])
def test_gradient_checkpointing_changes_memory_only(peft):
    plain, saving = (
        load_policy(
            config=TINY | {"attention_dropout": 0.5},
            tokenizer="bytes",
            dtype="float64",
            peft=peft,
            gradient_checkpointing=on,
        )
        for on in (False, True)
    )
    a, b = gradient(plain), gradient(saving)
    assert a.norm() > 0 and (a - b).norm() <= 1e-13 * a.norm()
    assert kept(saving) < 0.5 * kept(plain)
    assert not any(
        m.training for m in saving.model.modules() if type(m).__name__ == "Qwen2Attention"
    )


def test_compiled_gives_the_same_gradient_for_lengths_it_has_not_seen(make_policy):
    plain = make_policy(num_hidden_layers=1, dtype="float32")
    compiled = load_policy(config=TINY | {"num_hidden_layers": 1}, tokenizer="bytes", compile=True)
    stats = torch._dynamo.utils.counters["stats"]
    gradient(compiled)
    graphs = stats["unique_graphs"]
    for seed, n in ((1, 7), (2, 9), (3, 4)):
        a, b = (gradient(policy, make_samples(n, seed=seed)) for policy in (plain, compiled))
        assert (a - b).norm() < 1e-5 * a.norm()
    assert stats["unique_graphs"] == graphs > 0, "compiled again for other lengths"
    assert copy.deepcopy(compiled.module).model.model.layers[0]._compiled_call_impl is None
    assert dict(compiled.weights()).keys() == dict(plain.weights()).keys()
