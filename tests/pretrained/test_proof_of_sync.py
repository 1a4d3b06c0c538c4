"""The proof of sync on a pretrained model: right weights pass, each planted fault fails the check that is there for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from rlcore.errors import PublishError
from rlcore.learner.policy import Policy, load_policy
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.publish import LEAST_LIMIT, NOISE_FACTOR, canary_gap, publish
from rlcore.rollout.vllm_local import VllmEngine
from rlcore.types import Task

pytestmark = [pytest.mark.vllm, pytest.mark.slow]

LAYER = 12
LORA = {"type": "lora", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
TEXTS = (
    "The tide came in before noon, and the boats that had lain on their sides all morning began to float one after another.",
    "To make bread you need flour, water, salt and time. Mix the flour and the water first and let them rest for half an hour.",
)


class Served:
    """A policy and a vLLM engine that serves it."""

    def __init__(
        self, folder: Path, dtype: str, peft: dict | None = None, quantize: str | None = None
    ) -> None:
        self.policy = load_policy(path=str(folder), dtype=dtype, peft=peft, quantize=quantize)
        self.engine = VllmEngine(folder, dtype=dtype, max_length=256, max_sequences=4)
        self.dtype = dtype
        encoder = PromptEncoder(self.policy.tokenizer, format="chat")
        question = encoder.encode(Task(id="q", prompt="Write two sentences."))
        self.texts = [question + self.policy.tokenizer(text).input_ids for text in TEXTS]
        self.version = 0

    def publish(self, weights: Callable | None = None) -> object:
        self.version += 1
        return publish(
            weights or self.policy.weights,
            self.engine,
            self.version,
            canary=self.texts,
            score=self.policy.score,
            score_float32=self.policy.score_float32 if self.dtype == "bfloat16" else None,
            served_dtype=self.dtype,
        )

    def gap_over_limit(self) -> float:
        """The canary alone, whatever the fingerprint says."""
        ours = self.policy.score(self.texts)
        noise = 0.0
        if self.dtype == "bfloat16":
            noise = canary_gap(ours, self.policy.score_float32(self.texts))[0]
        served = [scored.logprobs for scored in self.engine.score(self.texts)]
        gap, _ = canary_gap(served, ours)
        return gap / max(LEAST_LIMIT, NOISE_FACTOR * noise)

    def model(self) -> torch.nn.Module:
        return self.engine._engine.apply_model(lambda model: model)[0]

    def close(self) -> None:
        self.engine.close()


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def served(request: pytest.FixtureRequest, smollm2: Path) -> Iterator[Served]:
    served = Served(smollm2, request.param)
    yield served
    served.close()


@torch.no_grad()
def one_update(policy: Policy, lr: float = 1e-5) -> None:
    """What Adam's first step changes: every element by the learning rate."""
    for parameter in policy.module.parameters():
        parameter.add_(lr * torch.randn_like(parameter).sign())


def require_packed(layer: torch.nn.Module) -> None:
    """Skip where vLLM multiplies by the weight itself, as in bfloat16 on a CPU without instructions for it."""
    probe = torch.ones(1, layer.weight.shape[1], dtype=layer.weight.dtype)
    if not layer.cpu_linear(probe, torch.zeros_like(layer.weight), None).any():
        pytest.skip("there is no packed copy on this CPU that could be wrong")


def test_right_weights_pass(served: Served) -> None:
    for _ in range(3):
        one_update(served.policy)
        report = served.publish()
        assert report.gap < (1e-4 if served.dtype == "float32" else 0.7 * report.limit)


def test_a_wrong_packed_tensor_fails_both_checks(served: Served) -> None:
    layers = served.model().model.layers
    layer, other = layers[LAYER].mlp.down_proj, layers[LAYER + 1].mlp.down_proj
    require_packed(layer)
    served.publish()
    right = layer.cpu_linear
    layer.cpu_linear = other.cpu_linear
    assert served.gap_over_limit() > 1
    assert f"layers.{LAYER}.mlp.down_proj" in served.engine.fingerprint()
    layer.cpu_linear = right
    assert served.gap_over_limit() < 1


def test_a_transposed_weight_fails_the_canary(served: Served) -> None:
    """The fingerprint cannot see it: the elements are the same."""
    name = f"model.layers.{LAYER}.self_attn.o_proj.weight"

    def transposed() -> Iterator[tuple[str, torch.Tensor]]:
        for key, tensor in served.policy.weights():
            yield key, tensor.T.contiguous() if key == name else tensor

    with pytest.raises(PublishError, match="canary"):
        served.publish(transposed)
    served.publish()


def test_a_stale_layer_fails_the_fingerprint(served: Served) -> None:
    """One layer keeps computing with the weights of the update before."""
    layer = served.model().model.layers[LAYER].self_attn.qkv_proj
    require_packed(layer)
    served.publish()
    stale = layer.cpu_linear
    one_update(served.policy, lr=1e-6 if served.dtype == "float32" else 1e-5)
    served.publish()
    layer.cpu_linear = stale
    assert f"1 packed copies, first of model.layers.{LAYER}.self_attn.qkv_proj" in (
        served.engine.fingerprint()
    )
    served.publish()


def test_the_weights_of_the_step_before_fail_the_fingerprint(served: Served) -> None:
    before = [(name, tensor.clone()) for name, tensor in served.policy.weights()]
    one_update(served.policy)
    engine_load = served.engine.load

    def load_old(weights: object, version: int) -> None:
        engine_load(before, version)

    served.engine.load = load_old
    try:
        with pytest.raises(PublishError, match="fingerprint"):
            served.publish()
    finally:
        served.engine.load = engine_load
    served.publish()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dropped_adapter_fails_the_canary(smollm2: Path, dtype: str) -> None:
    """After 20 updates at a usual learning rate; the engine still serves the base."""
    served = Served(smollm2, dtype, LORA)
    try:
        assert served.gap_over_limit() < 1
        policy = served.policy
        weights = [p for p in policy.module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=2e-4)
        ids = torch.tensor(served.texts[1])
        length = len(ids) - 1
        every = torch.arange(length)
        for _ in range(20):
            logprobs, _ = policy.module(ids[:-1], every, (length,), every, ids[1:])
            optimizer.zero_grad()
            (-logprobs.mean()).backward()
            optimizer.step()
        assert served.gap_over_limit() > 1
    finally:
        served.close()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_in_4_bits_the_engine_serves_what_they_stand_for(smollm2: Path, dtype: str) -> None:
    """The model as it was before it was quantised fails the canary."""
    served = Served(smollm2, dtype, LORA, "nf4")
    try:
        assert served.gap_over_limit() > 1
        served.publish()
        assert served.gap_over_limit() < 1
        whole = load_policy(path=str(smollm2), dtype=dtype)
        with pytest.raises(PublishError, match="canary"):
            served.publish(whole.weights)
    finally:
        served.close()
