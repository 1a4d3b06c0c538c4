"""Gradient checkpointing and compiled layers: they trade time and memory, not the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from rlcore.errors import ModelError
from rlcore.learner.attention import PACKED, packed_attention


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Keep only each layer's input for the backward pass, which computes the rest again.

    transformers does so in training mode only. The layers themselves are put into it; the modules
    inside them, dropout included, stay in evaluation mode. Raises `ModelError`.
    """
    layers = _layers(model, "gradient_checkpointing")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True


def compile_layers(model: PreTrainedModel) -> None:
    """Compile each layer at its first use, once for all lengths.

    Attention itself is not compiled. Raises `ModelError`.
    """
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
            f"{type(model).__name__} does not mark its layers, so they cannot be found: set "
            f"model.{option}=false"
        )
    return layers


class _Covered:
    """A value the compiler does not look into: it would compile again for each list of lengths."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _cover(
    decoder: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    covered = {}
    for name, value in keywords.items():
        covered[name] = _Covered(value) if name.startswith("packed_") else value
    return inputs, covered


@torch.compiler.disable
def _attention(*inputs: Any, **keywords: Any) -> Any:
    uncovered = {}
    for name, value in keywords.items():
        uncovered[name] = value.value if isinstance(value, _Covered) else value
    return packed_attention(*inputs, **uncovered)
