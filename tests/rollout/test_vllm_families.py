"""Architectures that vLLM serves by other ways than its own dense models, and those that it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from rlcore.errors import EngineError, ModelError
from rlcore.learner.policy import load_policy
from rlcore.rollout.publish import fingerprint
from rlcore.rollout.vllm_config import cache_bytes, in_our_words
from rlcore.rollout.vllm_local import VllmEngine
from tests.families.configs import LONGEST, make_model, tiny_config
from tests.families.examine import (
    LORA,
    check_engine,
    check_lora,
    open_engine,
    perturb,
    sequences,
)
from tests.rollout.end_of_turn import greedy, make_base, weights_that_write
from tests.rollout.test_chat_templates import CHATML, tokenizer_with

pytestmark = pytest.mark.vllm


def test_a_base_model_stops_where_its_chat_template_ends_a_turn(tmp_path: Path) -> None:
    """In its own folder, whose files do not say so, and in a checkpoint of ours, whose files do."""
    tokenizer = tokenizer_with(CHATML, "<|im_start|>", "<|im_end|>")
    end_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    base, saved = make_base(tmp_path / "base", tokenizer), tmp_path / "saved"
    load_policy(path=str(base)).save(saved)
    for folder in (base, saved):
        engine = VllmEngine(folder, max_length=64, max_sequences=2)
        try:
            engine.load(weights_that_write(folder, end_id), 1)
            completion = greedy(engine)
        finally:
            engine.close()
        assert (completion.token_ids, completion.finish) == ([end_id], "stop")


@pytest.mark.parametrize(
    "family", ["qwen3_moe", "olmo2", "ernie4_5_moe", "apertus", "deepseek_v3"]
)
def test_published_weights_are_those_that_vllm_computes_with(
    family: str, tmp_path: Path
) -> None:
    """Experts, which it packs in place on a CPU; a class of transformers, which it shares with the learner.

    Scores of experts with a correction, which its router on a CPU leaves out; parameters that it
    makes in bfloat16; rotated parts of heads, which its kernel for CPUs looks for elsewhere.
    """
    make_model(family, tmp_path)
    policy = load_policy(path=str(tmp_path), max_length=LONGEST)
    before = policy.score(sequences())
    check_engine("vllm", policy, tmp_path)
    # The learner's class is what it was, for models made before and after the engine's.
    again = load_policy(path=str(tmp_path), max_length=LONGEST)
    assert again.score(sequences()) == before


def test_weights_that_are_views_of_others_are_counted_once(tmp_path: Path) -> None:
    """Latent attention decodes with two halves of `kv_b_proj`, which are parameters too."""
    make_model("deepseek_v2", tmp_path)
    policy = load_policy(path=str(tmp_path), max_length=LONGEST)
    engine = open_engine("vllm", tmp_path)

    def halves(worker: Any) -> list[torch.Tensor]:
        model = worker.get_model()
        return [layer.W_UV.clone() for layer in model.modules() if hasattr(layer, "W_UV")]

    try:
        held = []
        for version in (1, 2):
            perturb(policy, version)
            engine.load(policy.weights(), version)
            assert engine.fingerprint() == fingerprint(policy.module.parameters())
            held.append(engine._engine.collective_rpc(halves)[0])
        assert len(held[0]) == 2 and not any(map(torch.equal, *held))
    finally:
        engine.close()


def test_the_cache_is_sized_by_the_heads_of_each_layer() -> None:
    config = tiny_config("gemma4_text").get_text_config()
    heads = [(layer.num_key_value_heads, layer.head_dim) for layer in config.per_layer_config]
    assert len(set(heads)) == 2
    token = sum(2 * count * size * 4 for count, size in heads)
    assert cache_bytes(config, "float32", 128, 3, None, 1) == 4 * 128 * token


def test_the_learner_reads_configs_with_its_own_classes_after_vllm_has_started(
    tmp_path: Path,
) -> None:
    make_model("hyperclovax", tmp_path)
    before = type(AutoConfig.from_pretrained(tmp_path))
    open_engine("vllm", tmp_path).close()
    assert type(AutoConfig.from_pretrained(tmp_path)) is before


def test_layers_that_vllm_does_not_adapt_are_named_at_the_first_publish(
    tmp_path: Path,
) -> None:
    make_model("glm4", tmp_path)
    with pytest.raises(EngineError) as error:
        check_lora("vllm", tmp_path, apart=True)
    assert str(error.value) == (
        "vLLM did not take the weights of version 1: it has no adapters for gate_up_proj of this "
        "model; set engine.sync=merged"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: raised(ValueError("No such thing. Please open an issue.")), "No such thing"),
        (lambda: raised(NotImplementedError("not yet\nsee docs")), "not yet"),
        (lambda: raised(ValueError("a. " * 300)), "a. a"),
        (lambda: raised(KeyError()), "KeyError"),
        (lambda: raised(AssertionError("Windows are not had.")), "here: Windows are not had;"),
        (lambda: {}["layers.1.bias"], "(KeyError: 'layers.1.bias', in test_vllm_families.py)"),
        (lambda: print.nothing, "(AttributeError: "),
        (lambda: refuse_silently(), "(AssertionError at "),
        (lambda: torch.zeros(3).narrow(0, 0, 9), "(RuntimeError: "),
    ],
)
def test_what_vllm_runs_into_is_told_apart_from_what_it_says(
    error: Callable[[], Any], said: str
) -> None:
    with pytest.raises(EngineError) as told, in_our_words("cannot start here"):
        error()
    sentence = str(told.value)
    assert sentence.startswith("vLLM cannot start here: ") and said in sentence
    assert "\n" not in sentence and "Please" not in sentence and len(sentence) < 400
    assert sentence.endswith("; set engine.use=hf, which serves every model that rlcore trains")


def raised(error: Exception) -> None:
    raise error


def refuse_silently() -> None:
    """An assertion that pytest does not rewrite."""
    exec(compile("assert 1 > 2", "vllm_code.py", "exec"))


@pytest.mark.parametrize(
    ("family", "adapter_rank", "said"),
    [
        ("qwen2, windows on some layers", None, "Sliding window for some but all layers"),
        ("gpt2", 4, "does not support LoRA yet; set engine.sync=merged"),
        ("cohere2", None, "makes windows one token wider in cohere2"),
        ("qwen2_moe, windows on some layers", None, "has no windows in qwen2_moe"),
    ],
)
def test_what_vllm_refuses_is_one_sentence(
    family: str, adapter_rank: int | None, said: str, tmp_path: Path
) -> None:
    make_model(family, tmp_path)
    with pytest.raises(EngineError, match=said) as error:
        open_engine("vllm", tmp_path, adapter_rank=adapter_rank)
    assert "\n" not in str(error.value)


def test_an_adapter_on_fused_experts_is_not_given_alone(tmp_path: Path) -> None:
    make_model("qwen3_moe", tmp_path)
    policy = load_policy(path=str(tmp_path), max_length=LONGEST, peft=LORA)
    with pytest.raises(
        ModelError, match="fused parameters of .*experts.*engine.sync to merged"
    ):
        _ = policy.adapter.rank
