"""Two ways to trade time and memory that leave the gradient as it is: gradient checkpointing and compiled layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlcore.errors import ModelError
from rlcore.learner.attention import PACKED, packed_attention


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Keep only the input of each layer for the backward pass and compute the rest again there. Raises `ModelError`.

    transformers does so in training mode only, which the layers themselves are put into; what is inside them, dropout among it,
    stays in evaluation mode.
    """
    layers = _layers(model, "gradient_checkpointing")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each layer at its first use, once for all lengths; attention itself stays outside. Raises `ModelError`."""
    layers = _layers(model, "compile")
    AttentionInterface.register(PACKED, _attention)
    model.get_decoder().register_forward_pre_hook(_cover, with_kwargs=True)
    for layer in layers:
        layer.compile(dynamic=True)


def _layers(model: PreTrainedModel, option: str) -> list[nn.Module]:
    layers = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} does not say what its layers are: set model.{option}=false"
        )
    return layers


class _Covered:
    """A value the compiler does not look into: it would compile again for each list of lengths."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _cover(
    decoder: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return inputs, {
        name: _Covered(value) if name.startswith("packed_") else value
        for name, value in keywords.items()
    }


@torch.compiler.disable
def _attention(*inputs: Any, **keywords: Any) -> Any:
    return packed_attention(
        *inputs, **{k: v.value if isinstance(v, _Covered) else v for k, v in keywords.items()}
    )
