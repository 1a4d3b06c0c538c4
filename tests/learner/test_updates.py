"""All updates of a step: minibatches, epochs, and what the ratio is taken to, against references written here in plain torch."""

import importlib.util
import random
from dataclasses import replace
from functools import cache
from itertools import combinations

import pytest
import torch
from accelerate import Accelerator
from test_update import parameters
from torch.nn.utils.rnn import pad_sequence

from rlcore.errors import LearnerError, RecipeError
from rlcore.learner.attention import PACKED
from rlcore.learner.update import Learner
from rlcore.learner.updates import cut, run_updates
from rlcore.objective import objective
from rlcore.objective.correction import require_correction
from rlcore.types import Sample

VERSION = 3
MINIBATCHES, EPOCHS, SEED = 4, 2, 11
MAX_TOKENS = 20
LR = 3e-3


def make_groups(policy, count=8, stale=(), seed=0, temperature=1.0):
    """(key, three samples of one prompt); the engine's log-probabilities are near the policy's own."""
    rng = random.Random(seed)
    groups = []
    for key in range(count):
        prompt = [rng.randrange(256) for _ in range(rng.randint(17, 20))]
        samples = []
        for index in range(3):
            ids = prompt + [rng.randrange(256) for _ in range(rng.randint(1, 9))]
            trained = [position >= len(prompt) for position in range(len(ids))]
            samples.append(
                Sample(
                    id=f"{key}/{index}",
                    token_ids=ids,
                    mask=trained,
                    advantages=[rng.choice((-1, 1)) * rng.uniform(0.3, 1.5)] * len(ids),
                    version=VERSION - 1 if key in stale else VERSION,
                    temperature=temperature,
                )
            )
        scores = policy.score([sample.token_ids for sample in samples])
        for index, sample in enumerate(samples):
            noisy = [0.0, *(score + rng.gauss(0, 0.05) for score in scores[index])]
            samples[index] = replace(sample, logprobs=noisy)
        groups.append((key, samples))
    return groups


def make_learner(policy, aim, **settings):
    settings = {"lr": LR, "optimizer": "sgd", "betas": (0.0, 0.0), "clip_norm": 1e9} | settings
    settings = {"total_updates": 100, "version": VERSION, "micro_batch_tokens": 70} | settings
    return Learner(policy, aim, accelerator=Accelerator(cpu=True), **settings)


def record_gradients(learner):
    gradients = []
    module = learner.policy.module
    learner._optimizer.optimizer.register_step_pre_hook(
        lambda *_: gradients.append(torch.cat([p.grad.flatten() for p in module.parameters()]))
    )
    return gradients


# an independent reference: padded, transformers' own forward, losses as in the papers -----------------------


def padded(samples, field):
    rows = [torch.tensor(getattr(sample, field), dtype=torch.float64) for sample in samples]
    return pad_sequence(rows, batch_first=True)[:, 1:]


def reference_logps(model, samples):
    ids = pad_sequence([torch.tensor(s.token_ids) for s in samples], batch_first=True)
    real = pad_sequence([torch.ones(len(s.token_ids)) for s in samples], batch_first=True)
    logits = model(input_ids=ids, attention_mask=real).logits[:, :-1].double()
    logits = (
        logits / torch.tensor([s.temperature for s in samples], dtype=torch.float64)[:, None, None]
    )
    return logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]


def clipped(ratio, advantage, low, high):
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def reference_loss(name, logp, old, on, advantage):
    """Value whose gradient is the paper's; on is 1 at trained tokens."""
    lengths = on.sum(1)
    log_ratio = (logp - old) * on
    ratio = log_ratio.exp()
    sequences = len(on)
    sequence_ratio = (log_ratio.sum(1) / lengths).exp()
    sequence_advantage = advantage[:, 0]
    if name == "grpo":
        return ((clipped(ratio, advantage, 0.2, 0.2) * on).sum(1) / lengths).mean()
    if name == "dr_grpo":
        return (clipped(ratio, advantage, 0.2, 0.2) * on).sum() / (sequences * MAX_TOKENS)
    if name == "dapo":
        return (clipped(ratio, advantage, 0.2, 0.28) * on).sum() / on.sum()
    if name == "ppo":
        return (clipped(ratio, advantage, 0.2, 0.2) * on).sum() / on.sum()
    if name in ("gspo", "gspo_token"):
        return clipped(sequence_ratio, sequence_advantage, 0.05, 0.08).mean()
    if name == "luspo":
        return (clipped(sequence_ratio, sequence_advantage, 0.05, 0.08) * lengths).mean()
    if name == "cispo":
        return -(ratio.detach().clamp(max=5.0) * advantage * logp * on).sum() / on.sum()
    if name == "sapo":
        up = (advantage > 0).double()
        tau = 1.0 * up + 1.05 * (1 - up)
        gate = 4 / tau * (tau * (ratio - 1)).sigmoid()
        return -((gate * advantage * on).sum(1) / lengths).mean()
    if name == "vespo":
        weight = log_ratio.sum(1, keepdim=True).exp().detach()
        up = advantage >= 0
        k, rate = torch.where(up, 2.0, 3.0), torch.where(up, 3.0, 2.0)
        phi = weight**k * (rate * (1 - weight)).exp()
        return -(phi * advantage * logp * on).sum() / on.sum()
    assert name == "rloo"
    return -(sequence_advantage * (logp * on).sum(1)).mean()


NAMES = ("grpo", "dr_grpo", "dapo", "gspo", "gspo_token", "cispo", "sapo", "vespo", "luspo", "ppo", "rloo")  # fmt: skip
DISTINCT = ("grpo", "gspo", "cispo", "dapo", "sapo", "vespo")


WIDE = {"clip_low": 0.05, "clip_high": 0.08}
"""Of ratios of sequences: their published bounds leave no gradient to compare after a few updates."""
PARAMS = {"dr_grpo": {"max_tokens": MAX_TOKENS}, "gspo": WIDE, "gspo_token": WIDE, "luspo": WIDE}


def aim_of(name, **extra):
    return objective(name, **PARAMS.get(name, {}), **extra)


def minibatch_samples(groups):
    """Samples of each of the k * e minibatches, in order."""
    keys = [(key,) for key, _ in groups]
    for epoch in range(EPOCHS):
        for chosen in cut(keys, MINIBATCHES, seed=SEED, epoch=epoch):
            yield [sample for key, samples in groups if (key,) in chosen for sample in samples]


def reference_run(make_policy, groups, loss, *, denominator="trainer"):
    """Gradients of all updates and the final weights, by plain gradient descent."""
    policy = make_policy()
    model = policy.model
    model.set_attn_implementation("sdpa")
    every = [sample for _, samples in groups for sample in samples]
    with torch.no_grad():
        rows = reference_logps(model, every)
    width = rows.shape[1]
    old_of = {sample.id: row for sample, row in zip(every, rows, strict=True)}
    gradients = []
    for number, samples in enumerate(minibatch_samples(groups)):
        logp = reference_logps(model, samples)
        on = padded(samples, "mask")
        advantage = padded(samples, "advantages")
        if denominator == "engine":
            old = padded(samples, "logprobs")
        else:
            old = torch.stack([old_of[sample.id] for sample in samples])[:, : logp.shape[1]]
        if number == 0:  # on-policy tokens: the ratio is 1
            current = torch.tensor([[sample.version == VERSION] for sample in samples])
            old = torch.where(current, logp.detach(), old)
        assert logp.shape[1] <= width
        model.zero_grad()
        loss(logp, old, on, advantage).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        with torch.no_grad():
            for p in model.parameters():
                p -= LR * p.grad
    return gradients, torch.cat([p.detach().flatten() for p in model.parameters()])


def our_run(make_policy, aim, groups, **settings):
    run_settings = {"minibatches": MINIBATCHES, "update_epochs": EPOCHS, "seed": SEED}
    for key in ("by", "old_logprobs", "minibatches", "update_epochs"):
        if key in settings:
            run_settings[key] = settings.pop(key)
    learner = make_learner(make_policy(), aim, **settings)
    gradients = record_gradients(learner)
    report = run_updates(learner, groups, **run_settings)
    return gradients, parameters(learner), report


def largest_error(got, want):
    assert len(got) == len(want)
    return max(
        ((g - w).norm() / w.norm().clamp(min=1e-8)).item() for g, w in zip(got, want, strict=True)
    )


@pytest.fixture
def norm_in_float64(monkeypatch):
    """transformers' RMSNorm rounds to float32, which would hide differences below 1e-7."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    def forward(module, x):
        return (
            x
            * (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()
            * module.weight
        )

    monkeypatch.setattr(Qwen2RMSNorm, "forward", forward)


@pytest.mark.parametrize("name", NAMES)
def test_every_gradient_equals_the_reference(make_policy, norm_in_float64, name):
    groups = make_groups(make_policy(), stale=(2, 5))

    def loss(*tensors):
        return reference_loss(name, *tensors)

    for denominator in ("trainer", "engine"):
        want, weights = reference_run(make_policy, groups, loss, denominator=denominator)
        assert sum(gradient.norm() > 1e-4 for gradient in want) >= 6  # others: all is clipped
        got, ours, report = our_run(make_policy, aim_of(name), groups, old_logprobs=denominator)
        assert largest_error(got, want) < 1e-8
        assert (ours - weights).abs().max() < 1e-10
        assert report.updates == MINIBATCHES * EPOCHS


TRL = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo", "epsilon_high": 0.28},
    "ppo": {"loss_type": "bnpo"},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence"},
    "luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "sapo": {"loss_type": "sapo", "sapo_temperature_neg": 1.05},
    "vespo": {"loss_type": "vespo"},
}


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="trl is not installed")
@pytest.mark.parametrize("name", TRL)
def test_every_gradient_equals_trls(make_policy, norm_in_float64, name):
    groups = make_groups(make_policy(), stale=(2, 5))
    settings = dict(TRL[name])
    if settings.get("importance_sampling_level") == "sequence":
        settings |= {"epsilon_low": 0.05, "epsilon_high": 0.08}
    want, _ = reference_run(make_policy, groups, lambda *x: trl_loss(settings, *x))
    got, _, _ = our_run(make_policy, aim_of(name), groups)
    # TRL holds sapo's temperatures in float32
    assert largest_error(got, want) < (1e-6 if name == "sapo" else 1e-8)


def trl_loss(settings, logp, old, on, advantage):
    """TRL's own `_compute_loss`, on a stand-in for the trainer whose model gives `logp`."""
    from collections import defaultdict
    from types import SimpleNamespace

    import trl

    args = SimpleNamespace(
        delta=None,
        use_bias_correction_kl=False,
        steps_per_generation=1,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=settings.get("sapo_temperature_neg", 1.05),
        vespo_k_pos=2.0,
        vespo_lambda_pos=3.0,
        vespo_k_neg=3.0,
        vespo_lambda_neg=2.0,
    )
    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda x: x,
        gather_for_metrics=lambda x: x,
        reduce=lambda x, **_: x,
        sync_gradients=False,
    )
    defaults = {
        "model": SimpleNamespace(training=True),
        "current_gradient_accumulation_steps": 1,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
        "use_adaptive_entropy": False,
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "max_completion_length": MAX_TOKENS,
        "beta": 0.0,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
    }
    trainer = SimpleNamespace(
        **defaults | settings,
        args=args,
        accelerator=accelerator,
        _metrics=defaultdict(lambda: defaultdict(list)),
        get_off_policy_mask=trl.GRPOTrainer.get_off_policy_mask,
        get_gamma_weights=trl.GRPOTrainer.get_gamma_weights,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, logp.detach(), None),
    )
    inputs = {
        "prompt_ids": torch.zeros(len(on), 1),
        "prompt_mask": torch.ones(len(on), 1),
        "completion_ids": torch.zeros_like(on),
        "completion_mask": on,
        "advantages": advantage[:, 0],
        "old_per_token_logps": old,
        "num_items_in_batch": on.sum(),
    }
    return trl.GRPOTrainer._compute_loss(trainer, trainer.model, inputs)


@cache
def final_weights(make_policy, name):
    groups = make_groups(make_policy())
    return our_run(make_policy, objective(name), groups, lr=0.05)


def test_the_methods_give_different_weights(make_policy):
    runs = {name: final_weights(make_policy, name) for name in DISTINCT}
    start = parameters(make_learner(make_policy(), aim_of("grpo")))
    for first, second in combinations(DISTINCT, 2):
        moved = (runs[first][1] - start).norm()
        assert (runs[first][1] - runs[second][1]).norm() > 1e-3 * moved, (first, second)
    for name in DISTINCT:
        report = runs[name][2]
        assert report.old_ratio_max > 1.05 and report.old_kl > 0
        assert report.clip_frac is None or report.clip_frac > 0


@pytest.mark.parametrize("plant", ["shifted", "of another sample"])
def test_wrong_old_logprobs_do_not_equal_the_reference(
    make_policy, norm_in_float64, monkeypatch, plant
):
    groups = make_groups(make_policy())
    want, _ = reference_run(make_policy, groups, lambda *x: reference_loss("grpo", *x))
    right = Learner.with_old_logprobs

    def wrong(learner, samples):
        completed, tokens = right(learner, samples)
        for index, sample in enumerate(completed):
            values = [value + 0.1 for value in sample.old_logprobs]
            if plant == "of another sample":
                other = completed[(index + 1) % len(completed)].old_logprobs
                values = [other[min(i, len(other) - 1)] for i in range(len(values))]
            completed[index] = replace(sample, old_logprobs=values)
        return completed, tokens

    assert largest_error(our_run(make_policy, aim_of("grpo"), groups)[0], want) < 1e-8
    monkeypatch.setattr(Learner, "with_old_logprobs", wrong)
    assert largest_error(our_run(make_policy, aim_of("grpo"), groups)[0], want) > 1e-2


@pytest.mark.parametrize(
    "settings", [{"micro_batch_tokens": 1}, {"micro_batch_tokens": 10_000}, {"layout": "packed"}, {"layout": "shared"}]
)  # fmt: skip
@pytest.mark.parametrize("by", ["group", "sequence"])
def test_micro_batches_and_layouts_do_not_matter(make_policy, norm_in_float64, settings, by):
    groups = make_groups(make_policy(), stale=(1,))
    want, weights, report = our_run(make_policy, aim_of("grpo"), groups, by=by)
    got, ours, again = our_run(make_policy, aim_of("grpo"), groups, by=by, **settings)
    assert largest_error(got, want) < 1e-9 and (ours - weights).abs().max() < 1e-12
    for field in ("loss", "entropy", "kl", "ratio_max", "clip_frac", "old_kl", "old_ratio_max"):
        assert getattr(again, field) == pytest.approx(getattr(report, field), rel=1e-7)


def test_one_update_on_policy_adds_no_forward_pass_and_no_bit(make_policy, monkeypatch):
    groups = make_groups(make_policy("float32"))
    plain = make_learner(make_policy("float32"), aim_of("grpo"))
    want = record_gradients(plain)
    report = plain.update([sample for _, samples in groups for sample in samples])

    def refuse(*_):
        raise AssertionError("log-probabilities were recomputed")

    monkeypatch.setattr(Learner, "with_old_logprobs", refuse)
    learner = make_learner(make_policy("float32"), aim_of("grpo"))
    got = record_gradients(learner)
    assert run_updates(learner, groups, seed=0) == report
    assert torch.equal(got[0], want[0]) and torch.equal(parameters(learner), parameters(plain))
    assert report.off_policy_tokens == report.forward_only_tokens == 0 and report.old_kl is None


def test_every_sample_is_trained_once_an_epoch_and_counted(make_policy):
    groups = make_groups(make_policy())
    tokens = sum(sum(sample.mask) for _, samples in groups for sample in samples)
    order = [[sample.id for sample in samples] for samples in minibatch_samples(groups)]
    for epoch in (order[:MINIBATCHES], order[MINIBATCHES:]):
        assert sorted(id for ids in epoch for id in ids) == sorted(
            sample.id for _, samples in groups for sample in samples
        )
        assert {len(ids) for ids in epoch} == {6}
    assert order[:MINIBATCHES] != order[MINIBATCHES:]
    _, _, report = our_run(make_policy, aim_of("grpo"), groups, layout="packed")
    assert report.tokens == report.recorded_tokens == EPOCHS * tokens
    assert report.sequences == EPOCHS * 24 and report.updates == 8
    first = sum(sum(sample.mask) for sample in next(minibatch_samples(groups)))
    assert report.off_policy_tokens == report.tokens - first
    read = sum(len(sample.token_ids) - 1 for _, samples in groups for sample in samples)
    assert (report.model_tokens, report.forward_only_tokens) == (EPOCHS * read, read)
    advantages = [abs(s.advantages[0]) * sum(s.mask) for _, samples in groups for s in samples]
    assert report.abs_advantage == pytest.approx(sum(advantages) / tokens)


def test_demonstrations_and_empty_groups(make_policy):
    groups = make_groups(make_policy(), 3)
    bare = [replace(sample, logprobs=None, version=None) for sample in groups[1][1]]
    nothing = [replace(sample, mask=[False] * len(sample.mask)) for sample in groups[2][1]]
    mixed = [groups[0], (1, bare), (2, nothing), (3, [])]
    _, _, report = our_run(make_policy, aim_of("grpo"), mixed)
    assert report.updates == 2 * EPOCHS and report.tokens > report.recorded_tokens > 0
    learner = make_learner(make_policy(), aim_of("grpo"))
    empty = run_updates(learner, mixed[2:], minibatches=2, seed=0)
    assert empty.updates == empty.tokens == learner.updates == 0
    with pytest.raises(LearnerError, match="two groups of the step have the key 0"):
        run_updates(learner, [groups[0], (0, groups[1][1])], seed=0)


def test_resume_between_steps_continues_bit_for_bit(make_policy):
    settings = {"optimizer": "adamw", "betas": (0.9, 0.95), "schedule": "cosine", "ema": 0.9}
    settings |= {"total_updates": 4 * MINIBATCHES * EPOCHS}
    groups = make_groups(make_policy("float32"), stale=(0,))

    def steps(learner, numbers):
        reports = []
        for number in numbers:
            batch = [
                (key, [replace(s, version=s.version - VERSION + learner.version) for s in samples])
                for key, samples in groups
            ]
            reports.append(run_updates(learner, batch, minibatches=4, update_epochs=2, seed=number))
            learner.version += 1
        return reports

    whole = make_learner(make_policy("float32"), aim_of("dapo"), **settings)
    reports = steps(whole, range(4))
    first = make_learner(make_policy("float32"), aim_of("dapo"), **settings)
    steps(first, range(2))
    second = make_learner(make_policy("float32", seed=9), aim_of("dapo"), **settings)
    second.policy.module.load_state_dict(first.policy.module.state_dict())
    second.load_state_dict(first.state_dict())
    assert (second.version, second.updates) == (VERSION + 2, 16)
    assert steps(second, range(2, 4)) == reports[2:]
    assert torch.equal(parameters(second), parameters(whole))
    assert reports[-1].lr < reports[0].lr


@pytest.mark.parametrize("temperatures", [(0.3,), (0.5, 1.0, 1.7)])
def test_the_ratio_on_the_same_weights_is_one_at_any_temperature(make_policy, temperatures):
    """Samples that the policy itself wrote, stored and read back: their version is of another run."""
    policy = make_policy()
    learner = make_learner(policy, aim_of("grpo"), lr=0.0)
    samples = []
    for key, group in make_groups(policy):
        temperature = temperatures[key % len(temperatures)]
        samples += [replace(s, temperature=temperature, version=None) for s in group]
    policy.model.set_attn_implementation("sdpa")
    with torch.no_grad():
        rows = reference_logps(policy.model, samples)
    policy.model.set_attn_implementation(PACKED)
    recorded = []
    for sample, row in zip(samples, rows.tolist(), strict=True):
        recorded.append(replace(sample, logprobs=[0.0, *row[: len(sample.token_ids) - 1]]))
    report = learner.update(recorded)
    assert (
        report.ratio_max == pytest.approx(1, abs=1e-4) and report.old_ratio_max == report.ratio_max
    )
    assert report.kl < 1e-8 and report.clip_frac == 0
    wrong = [replace(sample, temperature=2.0) for sample in recorded]
    assert learner.update(wrong).ratio_max > 1.2


def test_a_correction_works_on_the_gap_from_behaviour_to_old(make_policy, norm_in_float64):
    groups = make_groups(make_policy(), stale=(0, 1, 2, 3))
    correction = {"kind": "token_truncate", "high": 1.05}

    def loss(logp, old, on, advantage):
        weight = (old - behaviour[0]).exp().clamp(max=1.05).detach()
        return (
            (clipped((logp - old).exp(), advantage, 0.2, 0.2) * weight * on)
            .sum(1)
            .div(on.sum(1))
            .mean()
        )

    batches = iter(list(minibatch_samples(groups)))
    behaviour = [None]

    def with_behaviour(*tensors):
        behaviour[0] = padded(next(batches), "logprobs")
        return loss(*tensors)

    want, _ = reference_run(make_policy, groups, with_behaviour)
    got, _, _ = our_run(make_policy, aim_of("grpo", correction=correction), groups)
    assert largest_error(got, want) < 1e-8
    assert largest_error(our_run(make_policy, aim_of("grpo"), groups)[0], want) > 1e-3


def test_stale_tokens_with_recomputed_logprobs_need_a_correction():
    corrected = objective("grpo", correction={"kind": "token_truncate", "high": 2.0}, kl=0.1)
    require_correction(corrected, old_logprobs="trainer", max_staleness=1)
    require_correction(objective("grpo"), old_logprobs="engine", max_staleness=1)
    require_correction(objective("grpo"), old_logprobs="trainer", max_staleness=0)
    with pytest.raises(RecipeError, match="the objective needs a correction of stale tokens"):
        require_correction(objective("grpo"), old_logprobs="trainer", max_staleness=1)
