"""The load check: what an architecture does beyond a short text is either computed or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from rlcore.errors import ModelError
from rlcore.learner import attention, packed_check
from rlcore.learner.attention import PACKED, packed_attention
from rlcore.learner.module import PackedModule
from rlcore.learner.noise import arithmetic_noise, in_float32
from rlcore.learner.packed_check import check_packed, one_by_one, twin_problem
from rlcore.learner.policy import load_policy
from rlcore.learner.twin import twin_config, twin_of
from rlcore.rope import fix_rope
from rlcore.tokenizer import byte_tokenizer
from tests.families.configs import VARIANTS, make_model, tiny_config

SIZES = {
    "vocab_size": 262,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
LONGROPE = {
    "model_type": "phi3",
    "original_max_position_embeddings": 32,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [4.0] * 8,
        "original_max_position_embeddings": 32,
        "partial_rotary_factor": 1.0,
    },
}
WINDOWS = {
    "mistral": {"sliding_window": 4096},
    "gemma3_text": {"sliding_window": 4096},
    "qwen2_moe": {
        "use_sliding_window": True,
        "sliding_window": 4096,
        "max_window_layers": 1,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "phimoe": {"sliding_window": 4096, "num_local_experts": 4},
}


def config_of(model_type: str, **keys: Any) -> Any:
    default = AutoConfig.for_model(model_type)
    sizes = {key: value for key, value in SIZES.items() if hasattr(default, key)}
    return AutoConfig.for_model(model_type, **(sizes | keys))


@pytest.fixture
def fresh_cache() -> None:
    packed_check._twin_problem.cache_clear()


def replace_attention(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict], None]) -> None:
    """Plant a mistake: packed attention that does not get what `change` takes from its keywords."""

    def wrong(*inputs: Any, **keywords: Any) -> Any:
        change(keywords)
        return packed_attention(*inputs, **keywords)

    monkeypatch.setitem(attention.AttentionInterface._global_mapping, PACKED, wrong)


@pytest.mark.parametrize("model_type", WINDOWS)
def test_a_window_of_thousands_of_tokens_is_checked(
    model_type: str, monkeypatch: pytest.MonkeyPatch, fresh_cache: None
) -> None:
    """Also where the model says it to its mask alone, and not to its attention."""
    config = config_of(model_type, **WINDOWS[model_type])
    assert twin_problem(config) == ""
    packed_check._twin_problem.cache_clear()
    monkeypatch.setitem(
        attention.AttentionMaskInterface._global_mapping, PACKED, lambda **_: None
    )
    replace_attention(monkeypatch, lambda keywords: keywords.pop("sliding_window", None))
    assert "differ from the model's own by" in twin_problem(config)


@pytest.mark.parametrize(
    ("model_type", "keys", "lost"),
    [
        ("gemma2", {"attn_logit_softcapping": 50.0}, "softcap"),
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2}, "s_aux"),
        ("granite", {"attention_multiplier": 0.3}, "scaling"),
    ],
)
def test_caps_sinks_and_scales_are_checked(
    model_type: str,
    keys: dict[str, Any],
    lost: str,
    monkeypatch: pytest.MonkeyPatch,
    fresh_cache: None,
) -> None:
    config = config_of(model_type, **keys)
    assert twin_problem(config) == ""
    packed_check._twin_problem.cache_clear()
    replace_attention(monkeypatch, lambda keywords: keywords.pop(lost, None))
    assert "differ from the model's own by" in twin_problem(config)


def test_the_twin_is_small_and_has_every_kind_of_layer() -> None:
    config = config_of(
        "gemma3_text",
        num_hidden_layers=24,
        sliding_window=1024,
        layer_types=["sliding_attention"] * 23 + ["full_attention"],
    )
    small = twin_config(config)
    assert small.layer_types == ["sliding_attention", "full_attention"]
    assert (small.num_hidden_layers, small.sliding_window, small.vocab_size) == (2, 4, 128)
    assert config.sliding_window == 1024
    assert torch.equal(twin_of(config).lm_head.weight, twin_of(config).lm_head.weight)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
@pytest.mark.parametrize("max_length", [None, 20, 64])
def test_log_probabilities_do_not_depend_on_neighbours(
    kind: str, max_length: int | None
) -> None:
    """Rotary frequencies that follow the longest sequence of a row would move them by nats."""
    if kind == "longrope":
        config = LONGROPE | {key: value for key, value in SIZES.items() if key != "vocab_size"}
    else:
        rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
        config = {"model_type": "llama", "rope_parameters": rope} | SIZES
        config["max_position_embeddings"] = 32
    policy = load_policy(config=config, tokenizer="bytes", max_length=max_length)
    beyond = max_length == 64 and kind == "longrope"
    assert policy.max_length == (256 if beyond else 32)
    lengths = (5, 30, 60) if beyond else (5, 30)
    texts = [[(7 * i + n) % 250 for i in range(n)] for n in lengths]
    alone = [policy.score([text])[0] for text in texts]
    together = policy.score(texts)
    for first, second in zip(alone, together, strict=True):
        assert first == pytest.approx(second, abs=1e-4)


def test_rope_is_fixed_to_what_the_model_has_for_that_length() -> None:
    config = config_of("phi3", **{k: v for k, v in LONGROPE.items() if k != "model_type"})
    text = [torch.randint(0, 128, (n,)) for n in (6, 60)]
    free = twin_of(config)
    short, long = twin_of(config), twin_of(config)
    assert fix_rope(short, None) == 8 and fix_rope(long, 64) is None
    expected = [one_by_one(free, [ids]) for ids in text]
    assert torch.equal(one_by_one(short, text[:1]), expected[0])
    assert torch.equal(one_by_one(long, text[1:]), expected[1])
    # The two sets differ, so a wrong choice would show.
    assert (one_by_one(short, text[1:]) - expected[1]).abs().mean() > 0.1


@pytest.mark.parametrize(
    ("model_type", "keys", "scale"),
    [
        ("granite", {"logits_scaling": 4.0}, 0.25),
        ("granitemoe", {"logits_scaling": 8.0, "num_local_experts": 4}, 0.125),
        ("cohere", {"logit_scale": 0.0625}, 0.0625),
        ("llama", {}, 1.0),
    ],
)
def test_scaled_logits(model_type: str, keys: dict[str, Any], scale: float) -> None:
    config = {"model_type": model_type} | SIZES | keys
    if model_type in ("cohere", "granite", "granitemoe"):
        config.pop("head_dim")
    policy = load_policy(config=config, tokenizer="bytes")
    assert policy.module.logit_scale == scale
    text = list(range(30, 60))
    packed = policy.score([text])[0]
    policy.model.set_attn_implementation("eager")
    own = one_by_one(policy.model, [torch.tensor(text)]).tolist()
    assert packed == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize(
    ("model_type", "keys", "sentence"),
    [
        (
            "mamba",
            {"num_hidden_layers": 2, "hidden_size": 32},
            "carry a state from token to token",
        ),
        (
            "lfm2",
            {"layer_types": ["conv", "full_attention"]},
            "carry a state from token to token",
        ),
        ("bloom", {"n_head": 4}, "code of its own"),
    ],
)
def test_what_the_layout_cannot_hold_is_refused_with_its_reason(
    model_type: str, keys: dict[str, Any], sentence: str
) -> None:
    default = AutoConfig.for_model(model_type)
    sizes = {
        key: value
        for key, value in SIZES.items()
        if hasattr(default, key) and not isinstance(getattr(type(default), key, None), property)
    }
    with pytest.raises(ModelError, match=sentence) as error:
        load_policy(config={"model_type": model_type} | sizes | keys, tokenizer="bytes")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("family", "sentence"),
    [
        ("bert", "it reads in both directions"),
        (
            "xlnet",
            "it reads in both directions",
        ),  # its config says -1 for no limit of positions
        ("bart", "it numbers the tokens of a row itself"),
        ("git", "its attention is code of its own"),  # and its images' is not
        ("reformer", "its attention is code of its own"),
        ("rembert", "its output head is more than one matrix"),
        ("deepseek_v32", "an indexer chooses the tokens"),
        ("minimax_m3_vl_text, sparse attention", "an indexer chooses the tokens"),
        ("bamba", "carry a state from token to token (linear_attention)"),
        ("zaya", "carry a state from token to token (hybrid)"),
    ],
)
def test_the_reason_is_what_the_model_does(family: str, sentence: str, tmp_path: Path) -> None:
    make_model(family, tmp_path)
    with pytest.raises(ModelError) as error:
        load_policy(path=str(tmp_path))
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        # limits that a text of some tokens does not reach, with the sizes of the published model
        ({"index_block_size": 128, "index_topk_blocks": 16}, "an indexer chooses the tokens"),
        ({"layer_types": ["full_attention"] * 60}, ""),
    ],
)
def test_sparse_attention_is_refused_however_long_its_blocks(
    keys: dict[str, Any], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "minimax_m3_vl_text, sparse attention"
    model_type, variant = VARIANTS[name]
    monkeypatch.setitem(VARIANTS, name, (model_type, variant | keys))
    make_model(name, tmp_path)
    if not sentence:
        load_policy(path=str(tmp_path))
        return
    with pytest.raises(ModelError, match=sentence):
        load_policy(path=str(tmp_path))


def test_architectures_that_pass_no_keywords_on_get_the_layout_too() -> None:
    config = {"model_type": "stablelm"} | {k: v for k, v in SIZES.items() if k != "head_dim"}
    policy = load_policy(config=config, tokenizer="bytes")
    with torch.no_grad():
        with pytest.raises(ModelError, match="gradient_checkpointing=false"):
            policy.model(input_ids=torch.tensor([[1, 2]]))


def test_the_twin_is_allowed_its_own_rounding(
    monkeypatch: pytest.MonkeyPatch, fresh_cache: None
) -> None:
    """A model that runs its layers again and again makes more of it than any fixed limit allows."""
    config = tiny_config("hrm_text")
    assert twin_problem(config) == ""
    packed_check._twin_problem.cache_clear()
    replace_attention(monkeypatch, lambda keywords: keywords.update(scaling=0.2))
    assert "differ from the model's own by" in twin_problem(config)


def test_heads_of_more_than_one_matrix_are_named(tmp_path: Path) -> None:
    for family in ("modernbert-decoder", "rembert"):
        make_model(family, tmp_path / family)
        with pytest.raises(ModelError, match="output head is more than one matrix"):
            load_policy(path=str(tmp_path / family))


def test_bfloat16_is_compared_with_the_models_own_noise() -> None:
    """An absolute limit refuses real models: theirs is several times that of a tiny one."""
    torch.manual_seed(0)
    config = (
        {"model_type": "llama"} | SIZES | {"num_hidden_layers": 8, "initializer_range": 0.4}
    )
    peft = {"type": "lora", "r": 2, "target_modules": ["q_proj"]}
    policy = load_policy(config=config, tokenizer="bytes", dtype="bfloat16", peft=peft)
    model = policy.model
    model.set_attn_implementation("eager")
    texts = [torch.arange(20, 60), torch.arange(90, 120)]
    narrow = one_by_one(model, texts)
    noise = arithmetic_noise(model, texts, narrow, one_by_one)
    assert noise > 0.05
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with in_float32():
        wide = one_by_one(model, texts)
    exact = model.to(torch.float32)
    assert torch.allclose(wide, one_by_one(exact, texts), atol=1e-4)
    assert all(
        torch.equal(before[n], t.to(before[n].dtype)) for n, t in exact.state_dict().items()
    )


def test_a_mistake_beyond_the_noise_is_noticed_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = load_policy(config={"model_type": "llama"} | SIZES, tokenizer="bytes").model
    model.to(torch.bfloat16)
    check_packed(model, byte_tokenizer())
    forward = PackedModule.forward

    def shifted(
        self: PackedModule, ids: Any, positions: Any, *rest: Any, **keywords: Any
    ) -> Any:
        return forward(self, ids, positions * 2, *rest, **keywords)

    monkeypatch.setattr(PackedModule, "forward", shifted)
    with pytest.raises(ModelError, match="arithmetic noise allows"):
        check_packed(model, byte_tokenizer())
