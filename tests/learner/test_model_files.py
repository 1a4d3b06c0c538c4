"""Model folders as users have them: half of them, other people's settings, wrappers of peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from rlcore.errors import ModelError
from rlcore.learner.policy import load_policy
from rlcore.learner.policy_files import check_writable
from rlcore.tokenizer import byte_tokenizer
from tests.families.configs import make_model
from tests.learner.tiny_model import TINY

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MIXTURE = {
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "initializer_range": 0.3,
} | SIZES

MIXTRAL = {"model_type": "mixtral", "num_local_experts": 4, "initializer_range": 0.3} | SIZES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    load_policy(config=TINY | {"tie_word_embeddings": False}, tokenizer="bytes").save(tmp_path)
    return tmp_path


def edit_weights(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
    weights = load_file(folder / "model.safetensors") | change
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "name", ["lm_head.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
)
def test_a_missing_weight_is_no_random_weight(folder: Path, name: str) -> None:
    edit_weights(folder, {name: None})
    with pytest.raises(
        ModelError, match=f"do not hold the whole Qwen2ForCausalLM: they lack {name}"
    ):
        load_policy(path=str(folder))


def test_a_weight_of_another_shape_is_one_sentence(folder: Path) -> None:
    edit_weights(folder, {"model.norm.weight": torch.ones(3)})
    with pytest.raises(
        ModelError, match=r"model.norm.weight has the shape \(3,\) in the files"
    ) as error:
        load_policy(path=str(folder))
    assert "\n" not in str(error.value)


LAYER = "model.layers.0.mlp.up_proj"


@pytest.mark.parametrize(
    "name", [f"{LAYER}.weight_scale_inv", f"{LAYER}.bias", "lm_head.lora_A", "model.norm.bias"]
)
def test_a_weight_that_its_layer_does_not_use_is_refused(folder: Path, name: str) -> None:
    """Scales of quantised weights, a bias that config.json does not name: transformers drops them."""
    edit_weights(folder, {name: torch.ones(2)})
    with pytest.raises(
        ModelError, match=f"hold {name}, which Qwen2ForCausalLM .* does not use"
    ):
        load_policy(path=str(folder))


@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.up_proj.weight", "vision.conv.weight", "score.weight"]
)
def test_a_part_that_the_model_does_not_have_is_told(folder: Path, name: str) -> None:
    edit_weights(folder, {name: torch.ones(2)})
    with pytest.warns(UserWarning, match=f"does not have, first {name}"):
        load_policy(path=str(folder))


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "compressed-tensors"])
def test_quantised_weights_are_refused_before_they_are_read(folder: Path, method: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"is quantised \({method}\).*set model.path"):
        load_policy(path=str(folder))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(folder: Path, number: float) -> None:
    edit_weights(folder, {f"{LAYER}.weight": torch.full((96, 64), number)})
    with pytest.raises(ModelError, match=f"its weight {LAYER}.weight holds NaN or infinity"):
        load_policy(path=str(folder))


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    load_policy(config=TINY | {"tie_word_embeddings": True}, tokenizer="bytes").save(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    load_policy(path=str(tmp_path))


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 0.6}, {"top_p": 0.9, "do_sample": False}, {"top_k": 20}, {"min_p": 0.1}],
)
def test_a_generation_config_that_could_be_read_can_be_written(
    folder: Path, tmp_path: Path, settings: dict
) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    load_policy(path=str(folder)).save(tmp_path / "saved")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "saved").generation_config.do_sample


def test_what_cannot_be_saved_is_refused_at_the_start(folder: Path) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"length_penalty": 2.0}))
    AutoModelForCausalLM.from_pretrained(folder)  # it can be read
    with pytest.raises(
        ModelError, match="checkpoint .* could not be written: generation_config.json"
    ):
        load_policy(path=str(folder))


def config_with_an_object(model: Any, tokenizer: Any) -> None:
    model.config.hook = object()


def custom_tokenizer(model: Any, tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.pre_tokenizer = PreTokenizer.custom(object())


def changed_tokenizer(model: Any, tokenizer: Any) -> None:
    """Its saved class does not keep a normaliser."""
    tokenizer.save_pretrained = partial(
        PreTrainedTokenizerFast.save_pretrained, byte_tokenizer()
    )
    tokenizer.backend_tokenizer.normalizer = Lowercase()


def shared_layers(model: Any, tokenizer: Any) -> None:
    layers = model.model.layers
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight


def forgotten_weight(model: Any, tokenizer: Any) -> None:
    model._keys_to_ignore_on_save = ["model.norm.weight"]


def renamed_layer(model: Any, tokenizer: Any) -> None:
    model.model.layers[0].mlp.added = torch.nn.Linear(2, 2)


def whole_numbers(model: Any, tokenizer: Any) -> None:
    numbers = torch.ones(96, 64, dtype=torch.int8)
    model.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(numbers, requires_grad=False)


def odd_buffer(model: Any, tokenizer: Any) -> None:
    model.model.norm.register_buffer("odd", torch.ones(2).to_sparse())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (config_with_an_object, "config.json cannot be saved"),
        (custom_tokenizer, "the tokenizer cannot be saved"),
        (changed_tokenizer, "the saved tokenizer cannot be read again .*ids of a text"),
        (shared_layers, "its weights cannot be saved .*up_proj"),
        (forgotten_weight, "its weights cannot be saved .*they lack model.norm.weight"),
        (renamed_layer, "its weights cannot be saved .*nothing would read .*mlp.added"),
        (whole_numbers, "its weights cannot be saved .*up_proj.weight has the type torch.int8"),
        (odd_buffer, "its weights cannot be saved .*Sparse"),
    ],
)
def test_all_that_can_fail_at_a_checkpoint_is_tried_at_the_start(
    change: Callable[[Any, Any], None], said: str
) -> None:
    policy = load_policy(config=TINY | {"tie_word_embeddings": False}, tokenizer="bytes")
    check_writable(policy.model, policy.tokenizer)
    change(policy.model, policy.tokenizer)
    with pytest.raises(ModelError, match=f"could not be written: {said}") as error:
        check_writable(policy.model, policy.tokenizer)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tied", [True, False])
def test_wrappers_that_would_be_saved_under_other_names_are_refused(tied: bool) -> None:
    peft = {
        "type": "lora",
        "r": 2,
        "target_modules": ["q_proj"],
        "trainable_token_indices": [1, 2],
    }
    with pytest.raises(ModelError, match="embed_tokens|lm_head.token_adapter"):
        load_policy(
            config=TINY | {"tie_word_embeddings": tied},
            tokenizer="bytes",
            peft=peft,
        )


@pytest.mark.parametrize(
    "config", [TINY, MIXTURE, MIXTRAL], ids=["qwen2", "qwen3_moe", "mixtral"]
)
def test_what_is_saved_under_an_adapter_computes_what_the_policy_does(
    config: dict, tmp_path: Path
) -> None:
    """Also where peft wraps one layer twice, as the fused experts of a mixture."""
    peft = {"type": "lora", "r": 2, "target_modules": "all-linear"}
    policy = load_policy(config=config, tokenizer="bytes", peft=peft)
    with torch.no_grad():
        for parameter in policy.module.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    policy.save(tmp_path)
    text = list(range(40, 70))
    assert load_policy(path=str(tmp_path)).score([text])[0] == pytest.approx(
        policy.score([text])[0], abs=1e-4
    )


def test_all_linear_layers_are_those_that_compute_a_product(tmp_path: Path) -> None:
    """Phimoe's router is linear by class, and returns three things."""
    make_model("phimoe", tmp_path)
    peft = {"type": "lora", "r": 2, "target_modules": "all-linear"}
    policy = load_policy(path=str(tmp_path), peft=peft)
    adapted = {name for name, _ in policy.model.named_parameters() if "lora_A" in name}
    assert any("q_proj" in name for name in adapted)
    assert not any("router" in name for name in adapted)
    with pytest.raises(ModelError, match="leave it out of model.peft.target_modules"):
        load_policy(path=str(tmp_path), peft=peft | {"target_modules": ["router"]})


@pytest.mark.parametrize("model_type", ["olmo2", "qwen2", "phi3", "granite"])
def test_keys_that_the_model_reads_are_taken_although_its_config_has_no_default(
    model_type: str,
) -> None:
    config = {"model_type": model_type, "head_dim": 16} | SIZES
    policy = load_policy(config=config, tokenizer="bytes")
    assert policy.model.config.head_dim == 16
    with pytest.raises(ModelError, match="has no 'hed_dim'"):
        load_policy(config=config | {"hed_dim": 8}, tokenizer="bytes")


def test_the_byte_tokenizer_has_no_template_surprises() -> None:
    """What the other tests here assume: one end token, and no warning of a folder without one."""
    policy = load_policy(config=TINY, tokenizer="bytes")
    assert policy.end_ids == [byte_tokenizer().eos_token_id]
