"""A tiny config of each architecture, with weights and limits that a short text feels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from rlcore.learner.twin import cut_layers
from rlcore.tokenizer import byte_tokenizer

LONGEST = 60
"""Tokens of the longest sequence that is compared."""

SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 96,
    "ffn_dim": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "sliding_window": 8,
    "vocab_size_per_layer_input": 262,
    "hidden_size_per_layer_input": 8,
    # mixtures of experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "expert_dim": 32,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    "first_k_dense_replace": 1,
    # multi-head latent attention
    "q_lora_rank": 24,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
    # layers with a state, whose plain form makes [tokens, tokens, heads, states] of each chunk
    "mamba_chunk_size": 8,
    "chunk_size": 8,
    "mamba_d_state": 16,
    "ssm_state_size": 16,
}
"""Set where the architecture's default config has the key."""

VISION = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "depth": 1,
    "num_attention_heads": 2,
    "num_heads": 2,
    "out_hidden_size": 128,
    "image_size": 28,
    "patch_size": 14,
}
"""Of the part that reads images, which no text reaches."""

OF_FAMILY: dict[str, dict[str, Any]] = {
    "gemma": {"num_key_value_heads": 4},
    "gemma2": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    "granite": {"logits_scaling": 4.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2},
    "granitemoe": {"logits_scaling": 4.0},
    "cohere": {"logit_scale": 0.25},
    "cohere2": {"logit_scale": 0.25},
    "nemotron": {"num_key_value_heads": 2},
    "deepseek_v2": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
    },
    # vLLM reads scoring_func, zero_expert_type and use_routing_bias; the published files name them and
    # transformers has no default for them
    "deepseek_v3": {"topk_method": "noaux_tc", "scoring_func": "sigmoid"},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "gptj": {"rotary_dim": 16},
    "phi": {"intermediate_size": 512, "num_key_value_heads": 4},
    "minimax_m2": {"rotary_dim": 32, "scoring_func": "sigmoid", "use_routing_bias": True},
    "glm4_moe": {"head_dim": 32},
    "ministral": {"head_dim": 32},
    "hunyuan_v1_dense": {"head_dim": 32},
    "hunyuan_v1_moe": {"head_dim": 32},
    "glm4_moe_lite": {"first_k_dense_replace": 1},
    "gpt_bigcode": {"num_key_value_heads": 1},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,
        "num_layers": 2,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"] * 16},
    "camembert": {"pad_token_id": 1},
    "data2vec-text": {"pad_token_id": 1},
    "roberta": {"pad_token_id": 1},
    "roberta-prelayernorm": {"pad_token_id": 1},
    "xlm-roberta": {"pad_token_id": 1},
    "xlm-roberta-xl": {"pad_token_id": 1},
    "xmod": {"pad_token_id": 1},
    "codegen": {"rotary_dim": 16},
    "hy_v3": {"expert_hidden_dim": 32},
    "dbrx": {
        "d_model": 128,
        "n_heads": 4,
        "n_layers": 2,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_text": {"num_kv_shared_layers": 0},
    "gemma4_unified_text": {"num_kv_shared_layers": 0},
    "mamba2": {"num_heads": 8, "head_dim": 32, "state_size": 16, "n_groups": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "plbart": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "whisper": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "prophetnet": {"num_encoder_layers": 1, "num_decoder_layers": 1, "pad_token_id": 0},
    "reformer": {
        "is_decoder": True,
        "axial_pos_shape": [16, 16],
        "axial_pos_embds_dim": [64, 64],
    },
    "xlnet": {"n_head": 4, "d_head": 32, "d_inner": 96},
    "zaya": {"num_experts_per_tok": 1},
    "longcat_flash": {
        "num_layers": 2,
        "ffn_hidden_size": 64,
        "expert_ffn_hidden_size": 32,
        "zero_expert_num": 2,
        "zero_expert_type": "identity",
    },
    "phi4_multimodal": {
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        "audio_config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_blocks": 1,
            "num_attention_heads": 2,
        },
    },
    "git": {"vision_config": VISION},
    "blenderbot": {"encoder_layers": 1, "decoder_layers": 2, "decoder_ffn_dim": 96},
    "cohere_compass_text": {
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        }
    },
}
"""What makes the family what it is, or what its sizes must be to fit together."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi3, longrope": (
        "phi3",
        {
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": [1.0] * 16,
                "long_factor": [4.0] * 16,
                "original_max_position_embeddings": 32,
                "partial_rotary_factor": 1.0,
            },
            "original_max_position_embeddings": 32,
        },
    ),
    "llama, dynamic rope": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}},
    ),
    "llama, yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 10000.0,
                "original_max_position_embeddings": 64,
            }
        },
    ),
    "qwen2, windows on some layers": (
        "qwen2",
        {"use_sliding_window": True, "max_window_layers": 1},
    ),
    "qwen2_moe, windows on some layers": (
        "qwen2_moe",
        {"use_sliding_window": True, "max_window_layers": 1},
    ),
    "minimax_m3_vl_text, sparse attention": (
        "minimax_m3_vl_text",
        {
            "layer_types": ["full_attention", "minimax_m3_sparse"] * 30,
            "index_head_dim": 32,
            "index_n_heads": 2,
            "index_block_size": 4,
            "index_topk_blocks": 2,
        },
    ),
    "qwen3, tied head": ("qwen3", {"tie_word_embeddings": True}),
}
"""Settings of a family that users meet and that have gone wrong elsewhere: name -> model type, keys."""

LEFT_OUT = {
    "blt": "it reads patches of bytes, made by a second model, and not tokens",
    "cohere_compass_text": "transformers' default config of it makes no model",
    "emu3": "its tokens of images make it large; its text half is a Llama",
    "gemma3n": "its images need the package timm; the row gemma3n_text is its text half",
    "gemma4": "its part for images stays large; the row gemma4_text is its text half",
    "gemma4_assistant": "it drafts tokens for another model and has no text of its own",
    "gemma4_unified": "its part for images stays large; the row gemma4_unified_text is its text half",
    "gemma4_unified_assistant": "it drafts tokens for another model and has no text of its own",
    "musicgen": "it writes sound, for a text that another model reads",
    "musicgen_melody": "it writes sound, for a text that another model reads",
    "qwen4_exp": "transformers' default config of it makes no model",
    "qwen4_exp_text": "transformers' default config of it makes no model",
    "zamba": "its layers share weights in a pattern that two layers do not have; it has Mamba layers",
    "zamba2": "its layers share weights in a pattern that two layers do not have; it has Mamba layers",
}
"""Architectures without a tiny model here, and why."""

MOST_PARAMETERS = 30_000_000
SPECIAL = {"pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258}


def families() -> list[str]:
    """Model types of all architectures with a head for causal language modelling, and `VARIANTS`."""
    return sorted([*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS])


def tiny_config(name: str) -> PretrainedConfig:
    """The default config of a family or variant, with tiny sizes.

    Raises whatever the architecture raises.
    """
    model_type, keys = VARIANTS.get(name, (name, OF_FAMILY.get(name, {})))
    default = AutoConfig.for_model(model_type)
    if hasattr(default, "text_config") and hasattr(default, "vision_config"):
        values = {**_sizes(default.text_config), "vocab_size": 262, **SPECIAL, **keys}
        vision = _known(default.vision_config, VISION)
        config = type(default)(text_config=values, vision_config=vision)
    else:
        values = {"vocab_size": 262, **SPECIAL, **_sizes(default), **keys}
        config = AutoConfig.for_model(model_type, **values)
    # one layer of each kind
    cut_layers(config.get_text_config())
    return config


def _sizes(config: PretrainedConfig) -> dict[str, Any]:
    sizes = _known(config, SIZES)
    if "qk_rope_head_dim" in sizes:  # what these families call head_dim
        sizes.pop("head_dim", None)
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    return sizes


def _known(config: PretrainedConfig, sizes: dict[str, Any]) -> dict[str, Any]:
    """Those of `sizes` for which the config has a number."""
    return {key: value for key, value in sizes.items() if _has(config, key)}


def _has(config: PretrainedConfig, key: str) -> bool:
    if isinstance(getattr(type(config), key, None), property):
        return False
    try:
        return isinstance(getattr(config, key, None), int)
    except Exception:  # a value that differs by layer
        return False


@torch.no_grad()
def make_model(name: str, folder: Path) -> PreTrainedModel:
    """A tiny model with random weights in `folder`, with a byte-level tokenizer."""
    config = tiny_config(name)
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"its config has parts that stay large ({size / 1e6:.0f}M parameters)")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.copy_(1.5 * parameter.shape[-1] ** -0.5 * torch.randn_like(parameter))
        else:
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    AutoConfig.from_pretrained(folder)  # raises for a tiny config that cannot be read back
    byte_tokenizer(max_length=256).save_pretrained(folder)
    return model.eval()
