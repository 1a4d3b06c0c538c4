"""The transformers model that a policy starts from when it is built from a config."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers import modeling_rope_utils as rope

from rlcore.errors import ModelError, first_line
from rlcore.plugin import did_you_mean


def model_from_config(
    values: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    dtype: str,
    seed: int,
) -> PreTrainedModel:
    """A model with random weights that follow from `seed`. Raises `ModelError`."""
    settings = dict(values)
    model_type = settings.pop("model_type", None)
    try:
        defaults = AutoConfig.for_model(model_type)
    except ValueError:
        raise ModelError(
            f"transformers knows no architecture of model_type {model_type!r}; try qwen2 or llama"
        ) from None
    for key in settings:
        if not hasattr(defaults, key) and not _is_read(defaults, key):
            suggestion = did_you_mean(key, defaults.to_dict())
            raise ModelError(f"a {model_type} config has no {key!r}{suggestion}")
    from_tokenizer = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        config = AutoConfig.for_model(model_type, **(from_tokenizer | settings))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(
                config,
                dtype=getattr(torch, dtype),
                attn_implementation="eager",
            )
    except (
        Exception
    ) as error:  # architectures raise anything for sizes that do not fit together
        raise ModelError(
            f"no {model_type} can be made from this config: {first_line(error)}"
        ) from error


def _is_read(config: PretrainedConfig, key: str) -> bool:
    """Whether the model's code reads a key that its config has no default for, such as `head_dim`."""
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        return False
    sources = [inspect.getsource(inspect.getmodule(model_class)), inspect.getsource(rope)]
    pattern = re.compile(rf"config\.{key}\b|config, \"{key}\"")
    return any(pattern.search(source) for source in sources)
