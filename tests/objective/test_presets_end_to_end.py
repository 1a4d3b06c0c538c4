"""The gradient of an optimiser step against a padded transformers forward, full log-softmax and the native loss, in float64."""

import random

import pytest
import torch
from accelerate import Accelerator
from native_losses import CASES, IDS
from torch.nn.functional import pad

from rlcore.learner import policy as policy_module
from rlcore.learner.attention import PACKED
from rlcore.learner.module import PackedModule
from rlcore.learner.policy import load_policy
from rlcore.learner.update import Learner
from rlcore.objective import objective
from rlcore.types import Sample

TINY = {
    "model_type": "qwen2",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
SHAPES = [(5, 9), (3, 4), (12, 1), (1, 7), (6, 13), (2, 2)]  # prompt and answer lengths


def tiny(seed):
    return load_policy(config=TINY, tokenizer="bytes", dtype="float64", seed=seed)


@pytest.fixture(scope="module")
def samples():
    """Off-policy samples: recorded log-probabilities are the policy's own plus noise, as if an older version had written them."""
    rng = random.Random(0)
    texts = [[rng.randrange(256) for _ in range(prompt + answer)] for prompt, answer in SHAPES]
    scorer = Learner(
        tiny(0), objective("sft"), accelerator=Accelerator(cpu=True), lr=0.0, total_updates=1
    )
    made = []
    for i, ((prompt, answer), text, scores) in enumerate(
        zip(SHAPES, texts, scorer.policy.score(texts), strict=True)
    ):
        mask = [False] * prompt + [True] * answer
        advantages = [rng.uniform(-2, 2)] * len(text)
        logprobs = [0.0] * prompt + [score + rng.gauss(0, 0.3) for score in scores[prompt - 1 :]]
        made.append(
            Sample(
                id=str(i),
                token_ids=text,
                mask=mask,
                advantages=advantages,
                logprobs=logprobs,
                version=0,
            )
        )
    return made


def step_gradient(samples, name, params, **settings):
    policy = tiny(0)
    learner = Learner(
        policy,
        objective(name, **params),
        accelerator=Accelerator(cpu=True),
        lr=1e-3,
        total_updates=9,
        version=1,
        clip_norm=1e9,
        reference=tiny(1),
        **settings,
    )
    grads = []
    learner._optimizer.optimizer.register_step_pre_hook(
        lambda *_: grads.extend(p.grad.flatten() for p in policy.module.parameters())
    )
    learner.update(samples)
    return torch.cat(grads)


def padded_gradient(samples, loss, params):
    longest = max(len(sample.token_ids) for sample in samples)

    def stacked(rows, dtype):
        return torch.stack(
            [pad(torch.tensor(row, dtype=dtype), (0, longest - len(row))) for row in rows]
        )

    ids = stacked([s.token_ids for s in samples], torch.int64)
    seen = stacked([[1] * len(s.token_ids) for s in samples], torch.int64)
    on, old, a = (
        stacked([list(map(float, getattr(s, name))) for s in samples], torch.float64)[:, 1:]
        for name in ("mask", "logprobs", "advantages")
    )

    def logp(policy):
        policy.model.set_attn_implementation("sdpa")  # the eager one takes its softmax in fp32
        logits = policy.model(input_ids=ids, attention_mask=seen).logits[:, :-1]
        return logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]

    policy = tiny(0)
    with torch.no_grad():
        reference = logp(tiny(1))
    loss(logp(policy), old, reference, a, on, on.sum(), len(samples), **params).backward()
    return torch.cat([p.grad.flatten() for p in policy.module.parameters()])


def error(got, want):
    return ((got - want).norm() / want.norm()).item()


# The reference of kl_cov takes every token as marked, and here none is: the marks are of a whole step (test_selection.py).
UNMARKED = [(case, id) for case, id in zip(CASES, IDS, strict=True) if case[0] != "kl_cov"]


@pytest.mark.parametrize(
    ("name", "params", "loss", "loss_params"),
    [case for case, _ in UNMARKED],
    ids=[id for _, id in UNMARKED],
)
def test_packed_step_equals_padded_native_loss(samples, name, params, loss, loss_params):
    want = padded_gradient(samples, loss, loss_params)
    assert error(step_gradient(samples, name, params), want) < 1e-10
    assert error(step_gradient(samples[::-1], name, params, micro_batch_tokens=16), want) < 1e-10


def leak(monkeypatch):
    """Attention that looks across the borders of sequences."""
    plant_forward(
        monkeypatch, lambda ids, positions, lengths, *rest: (ids, positions, (len(ids),), *rest)
    )


def shifted_target(monkeypatch):
    plant_forward(monkeypatch, lambda *inputs: (*inputs[:4], inputs[4].roll(1), *inputs[5:]))


def running_positions(monkeypatch):
    plant_forward(monkeypatch, lambda ids, positions, *rest: (ids, positions * 2, *rest))


def plant_forward(monkeypatch, changed):
    """The model gets other inputs than the learner gave; `changed` is told the first six."""
    forward = PackedModule.forward
    monkeypatch.setattr(
        PackedModule,
        "forward",
        lambda self, *inputs, **more: forward(self, *changed(*inputs[:6]), **more),
    )


def local_counts(monkeypatch):
    """Averages over the micro-batch instead of the step."""
    backward = Learner._backward
    monkeypatch.setattr(
        Learner,
        "_backward",
        lambda self, batch, counts: backward(
            self,
            batch,
            {name: type(c)(len(batch.row), len(batch.order)) for name, c in counts.items()},
        ),
    )


@pytest.mark.parametrize("plant", [leak, shifted_target, running_positions, local_counts])
def test_a_planted_mistake_is_noticed(samples, monkeypatch, plant):
    name, params, loss, loss_params = CASES[2]
    want = padded_gradient(samples, loss, loss_params)
    monkeypatch.setattr(
        policy_module, "check_packed", lambda model, _: model.set_attn_implementation(PACKED) or 1.0
    )
    plant(monkeypatch)
    assert error(step_gradient(samples, name, params, micro_batch_tokens=30), want) > 1e-3
