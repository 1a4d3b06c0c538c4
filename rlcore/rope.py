"""Rotary frequencies that do not depend on the length of what is read.

Two kinds do in transformers. `longrope` (Phi-3) has one set for sequences up to the length of
pretraining and another for longer ones; `dynamic` stretches them with the length. A row of several
sequences, or one that grows while it is written, would then mix them: tokens that were already read
would get other log-probabilities. So a run chooses one set for all of its sequences, by the longest
that it allows, as vLLM does for `longrope`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

LENGTH_DEPENDENT = ("longrope", "dynamic")


def rope_parameters(config: PretrainedConfig) -> Iterator[dict[str, Any]]:
    """The parameters of each kind of rotary embedding that the config has."""
    parameters = getattr(config, "rope_parameters", None) or {}
    if "rope_type" in parameters:
        yield parameters
    else:
        yield from (value for value in parameters.values() if isinstance(value, dict))


def depends_on_length(config: PretrainedConfig) -> str | None:
    """The kind of rope, where its frequencies depend on the length of the sequence."""
    for parameters in rope_parameters(config.get_text_config()):
        if parameters.get("rope_type") in LENGTH_DEPENDENT:
            return parameters["rope_type"]
    return None


def pretrained_length(config: PretrainedConfig) -> int | None:
    """Tokens up to which rope has the frequencies of pretraining, where they depend on the length."""
    text = config.get_text_config()
    match depends_on_length(text):
        case "longrope":
            return min(p["original_max_position_embeddings"] for p in rope_parameters(text))
        case "dynamic":
            return text.max_position_embeddings
    return None


def fix_rope(model: nn.Module, max_length: int | None) -> int | None:
    """Make the rotary frequencies of `model` those for sequences up to `max_length`, in place.

    max_length: in tokens; None for what pretraining used. Returns the longest sequence that these
    frequencies are meant for; None where the model sets no such limit.
    """
    limits = []
    for module in model.modules():
        rope_type = getattr(module, "rope_type", None)
        types = rope_type if isinstance(rope_type, dict) else {None: rope_type}
        for layer_type, name in types.items():
            if name in LENGTH_DEPENDENT:
                limits.append(_fix(module, layer_type, name, max_length))
    finite = [limit for limit in limits if limit is not None]
    return min(finite) if finite else None


def _fix(module: Any, layer_type: str | None, name: str, max_length: int | None) -> int | None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    prefix = "" if layer_type is None else f"{layer_type}_"
    pretrained = _pretrained_length(module, layer_type, name)
    limit = pretrained
    if max_length is not None and max_length > pretrained:
        limit = None if name == "longrope" else max_length
        device = getattr(module, f"{prefix}inv_freq").device
        keywords = {} if layer_type is None else {"layer_type": layer_type}
        frequencies, _ = ROPE_INIT_FUNCTIONS[name](
            module.config, device, seq_len=max_length, **keywords
        )
        module.register_buffer(f"{prefix}inv_freq", frequencies, persistent=False)
    # "default" is the type whose frequencies transformers never recomputes.
    if layer_type is None:
        module.rope_type = "default"
    else:
        module.rope_type = {**module.rope_type, layer_type: "default"}
    return limit


def _pretrained_length(module: Any, layer_type: str | None, name: str) -> int:
    if name == "dynamic":
        return module.original_max_seq_len
    parameters = module.config.rope_parameters
    if layer_type is not None:
        parameters = parameters[layer_type]
    return parameters["original_max_position_embeddings"]
