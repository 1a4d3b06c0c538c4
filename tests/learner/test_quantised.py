"""A frozen model in 4 bits below its adapter: the reference is the same model with the widened weights in its layers."""

from __future__ import annotations

import copy
import gc
import sys
import weakref

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import PeftModel
from test_adapters import LORA, trained
from tiny_model import TINY
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM

from rlcore.errors import ModelError, PublishError
from rlcore.learner.policy import Policy, load_policy
from rlcore.learner.quantised import QuantisedLinear, quantised_layers
from rlcore.plan.model import shaped_model
from rlcore.recipe.schema import Recipe
from rlcore.rollout.hf import HfEngine
from rlcore.rollout.publish import publish

TEXTS = [list(range(5, 30)), list(range(60, 20, -1))]


def make(quantize="nf4", peft=LORA, dtype="float32", **options) -> Policy:
    return load_policy(config=TINY, tokenizer="bytes", dtype=dtype, peft=peft, quantize=quantize, **options)


def widened(dtype: str = "float32", kind: str = "nf4") -> Policy:
    """The policy of `make` before it is quantised, with the weights that bitsandbytes' own round trip makes."""
    policy = make(None, dtype=dtype)
    head = policy.model.get_output_embeddings()
    for layer in policy.module.modules():
        if isinstance(layer, nn.Linear) and not layer.weight.requires_grad and layer is not head:
            packed, state = quantize_4bit(layer.weight.data, quant_type=kind, compress_statistics=True)
            layer.weight.data = dequantize_4bit(packed, state)
    return policy


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_it_is_the_model_with_widened_weights(kind, dtype) -> None:
    """What it computes, trains, publishes and counts."""
    quantised, reference = make(kind, dtype=dtype), widened(dtype, kind)
    assert len(list(quantised_layers(quantised.module))) == 14  # 7 in each of two layers
    assert quantised.num_parameters == reference.num_parameters
    assert quantised.score(TEXTS) == reference.score(TEXTS)
    assert quantised.score(TEXTS) != make(None, dtype=dtype).score(TEXTS)
    for policy in (quantised, reference):
        trained(policy)
    published, expected = dict(quantised.weights()), dict(reference.weights())
    assert list(published) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(published[name], tensor), name
    apart, apart_expected = (dict(policy.weights(apart=True)) for policy in (quantised, reference))
    assert apart.keys() == apart_expected.keys()
    assert all(torch.equal(apart[name], tensor) for name, tensor in apart_expected.items())
    base, base_expected = quantised.saved_state(base=True), reference.saved_state(base=True)
    assert base.keys() == base_expected.keys()
    assert all(torch.equal(base[name], tensor) for name, tensor in base_expected.items())


def test_of_a_layer_the_backward_pass_holds_no_widened_weight() -> None:
    linear = nn.Linear(64, 128).requires_grad_(False)
    layer = QuantisedLinear(linear, "nf4", None)
    values = torch.randn(3, 64, requires_grad=True)
    held: list[torch.Tensor] = []
    with saved_tensors_hooks(lambda tensor: held.append(tensor) or tensor, lambda tensor: tensor):
        out = layer(values)
    assert all(tensor.numel() < layer.weight.numel() for tensor in held)
    pull = torch.randn_like(out)
    (out * pull).sum().backward()
    assert torch.allclose(out, values @ layer.weight.T + linear.bias, atol=1e-6)
    assert torch.allclose(values.grad, pull @ layer.weight, atol=1e-6)
    assert 0 < (layer.weight - linear.weight).abs().max() < 0.3 * linear.weight.abs().max()
    gone = weakref.ref(layer)
    del layer, out
    gc.collect()
    assert gone() is None


def test_it_is_stored_in_4_bits() -> None:
    linear = nn.Linear(512, 1024, bias=False).requires_grad_(False)
    layer = QuantisedLinear(linear, "nf4", None)
    state = layer._scales
    stored = [layer._packed, state.absmax, state.state2.absmax]
    assert sum(tensor.nbytes for tensor in stored) * 8 / linear.weight.numel() == pytest.approx(4.127, abs=0.003)
    assert not list(layer.parameters()) and not list(layer.buffers())


def test_it_moves_with_its_model_and_keeps_its_numbers() -> None:
    layer = QuantisedLinear(nn.Linear(64, 8).requires_grad_(False), "nf4", None)
    before = layer.weight
    assert torch.equal(copy.deepcopy(layer).double().weight, before)
    assert layer.to("meta").weight.device.type == "meta"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_it_loads_with_transformers_and_peft_and_goes_on_bit_for_bit(tmp_path, dtype) -> None:
    policy = make(dtype=dtype)
    trained(policy)
    policy.save(tmp_path / "whole")
    policy.save(tmp_path / "base", base=True)
    plain = load_policy(path=str(tmp_path / "whole"), dtype=dtype)
    tolerance = 1e-5 if dtype == "float32" else 0.1
    for ours, theirs in zip(policy.score(TEXTS), plain.score(TEXTS), strict=True):
        assert torch.allclose(torch.tensor(ours), torch.tensor(theirs), atol=tolerance)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype="auto")
    merged = PeftModel.from_pretrained(base, tmp_path / "whole/adapter").merge_and_unload()
    for name, tensor in merged.state_dict().items():
        assert torch.allclose(tensor, plain.model.state_dict()[name].to(tensor.dtype), atol=1e-6), name
    again = make(dtype=dtype, saved=tmp_path / "whole")
    assert again.score(TEXTS) == policy.score(TEXTS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_engine_serves_the_widened_weights(tmp_path, dtype) -> None:
    policy = make(dtype=dtype)
    policy.save(tmp_path)
    trained(policy)
    engine = HfEngine(str(tmp_path), dtype=dtype, max_length=64, max_sequences=4)
    settings = {"score": policy.score, "served_dtype": dtype, "canary": TEXTS}
    if dtype == "bfloat16":
        settings["score_float32"] = policy.score_float32
    publish(policy.weights, engine, 1, **settings)
    plain = make(None, dtype=dtype)  # the model that it was made of
    with pytest.raises(PublishError):
        publish(plain.weights, engine, 2, **settings)


def test_without_its_package_one_sentence_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ModelError, match=r"model.quantize needs bitsandbytes.*pip install 'rlcore\[quantize\]'"):
        make()


def recipe(**model) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "quantised",
            "model": {"config": TINY, "tokenizer": "bytes", **model},
            "tasks": {"train": {"use": "arithmetic"}},
            "stages": [{"kind": "rl", "tasks": "train", "steps": 1, "rewards": [{"use": "exact"}]}],
        }
    )


def test_a_recipe_without_an_adapter_is_refused() -> None:
    with pytest.raises(ValueError, match="quantize stores a frozen model in 4 bits.*add peft"):
        recipe(quantize="nf4")


def test_the_plan_counts_4_bits() -> None:
    """Against what is stored; FSDP2 shards the rest."""
    policy = make()
    stored = sum(p.nbytes for p in policy.module.parameters()) + sum(
        tensor.nbytes
        for _, layer in quantised_layers(policy.module)
        for tensor in (layer._packed, layer._scales.absmax, layer._scales.state2.absmax)
    )
    shaped = shaped_model(recipe(peft=LORA, quantize="nf4"))
    assert shaped.stored_bytes() == pytest.approx(stored, rel=0.01)
    assert shaped.stored_bytes(2) > shaped.stored_bytes() / 2
    plain = shaped_model(recipe(peft=LORA))
    assert plain.stored_bytes() == plain.weight_bytes == shaped.weight_bytes
