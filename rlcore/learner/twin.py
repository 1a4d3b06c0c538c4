"""A small model of the same architecture in which every limit is within reach of a short sequence.

Windows, limits of rope and soft caps of real models lie at thousands of tokens or at scores that
short texts do not have, so a forward that ignores them looks right on a short text. The twin has
the same code and the same structure of layers, with limits of a few tokens, large weights and few
layers.
"""

from __future__ import annotations

import copy
import re

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from rlcore.rope import rope_parameters

WINDOW = 4
ROPE_LIMIT = 8
"""Tokens up to which the twin has the frequencies of pretraining, where they depend on the length."""
VOCABULARY = 128
_LAYERS = ("num_layers_per_stack", "num_hidden_layers", "n_layer", "n_layers", "num_layers")
_MAX_LAYERS = 6
_WIDTH = 64
_GAIN = 2.0
"""Scale of the weights: scores of several units, so that one key outweighs the others."""
_CAPS = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}


def twin_of(config: PretrainedConfig) -> PreTrainedModel:
    """The twin of models with this config, in float32 with eager attention; equal for equal configs.

    Raises whatever the architecture raises for a config that it does not take.
    """
    small = twin_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            small, dtype=torch.float32, attn_implementation="eager"
        )
        _enlarge(model)
    return model.eval()


def twin_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config with few layers, one of each kind, and limits of a few tokens."""
    small = copy.deepcopy(config.get_text_config())
    cut_layers(small)
    for name, value in list(small.to_dict().items()):
        if value is None or isinstance(value, bool):
            continue
        if isinstance(value, int):
            small_value = _small_int(name, value)
            if small_value != value:
                _set(small, name, small_value)
        elif name in _CAPS:
            setattr(small, name, _CAPS[name])
        elif re.search(r"(^|_)(pad|bos|eos|sep)_token_id$", name):
            setattr(small, name, None)
    small.vocab_size = VOCABULARY
    for parameters in rope_parameters(small):
        if parameters.get("rope_type") == "longrope":
            parameters["original_max_position_embeddings"] = ROPE_LIMIT
            if hasattr(small, "original_max_position_embeddings"):
                small.original_max_position_embeddings = ROPE_LIMIT
        if "dynamic" in str(parameters.get("rope_type")):
            small.max_position_embeddings = ROPE_LIMIT
    return small


def _set(config: PretrainedConfig, name: str, value: int | None) -> None:
    try:
        setattr(config, name, value)
    except Exception:  # some configs check types, and want a number where others take None
        setattr(config, name, 0)


def _small_int(name: str, value: int) -> int | None:
    if re.search(r"(^|_)(pad|bos|eos|sep)_token_id$", name):
        return None
    if "window" in name:
        return min(value, WINDOW) if value > 0 else value
    if name.endswith(("intermediate_size", "ffn_dim", "ffn_hidden_size")):
        return min(value, _WIDTH)
    if name == "first_k_dense_replace":
        return min(value, 1)
    return value


def cut_layers(config: PretrainedConfig) -> None:
    """Keep the first layer of each kind, and two at least."""
    name = next(
        (name for name in _LAYERS if isinstance(getattr(config, name, None), int)), None
    )
    if name is None:
        return
    count = getattr(config, name)
    lists = {}
    for key, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == count and count > 2:
            lists[key] = value
    kinds = list(zip(*lists.values(), strict=True)) if lists else [()] * count
    first_of_kind = [i for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    others = [i for i in range(count) if i not in first_of_kind]
    kept = sorted((first_of_kind + others)[: max(2, len(first_of_kind))])[:_MAX_LAYERS]
    if len(kept) >= count:
        return
    # what single layers have otherwise, by their number
    sizes = config.to_dict().get("per_layer_config")
    if sizes:
        config.per_layer_config = {}
    for key, value in lists.items():
        setattr(config, key, [value[i] for i in kept])
    setattr(config, name, len(kept))
    if sizes:
        of_layer = {int(layer): values for layer, values in sizes.items()}
        config.per_layer_config = {
            new: of_layer[old] for new, old in enumerate(kept) if old in of_layer
        }


@torch.no_grad()
def _enlarge(model: PreTrainedModel) -> None:
    """Random weights of a size at which every part of the model matters."""
    for parameter in model.parameters():
        noise = torch.randn_like(parameter)
        if parameter.dim() < 2:
            parameter.add_(0.3 * noise)
        else:
            parameter.copy_(_GAIN * parameter.shape[-1] ** -0.5 * noise)
