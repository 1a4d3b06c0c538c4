"""How far a model's own arithmetic moves its log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

FALLBACK = 0.03
"""Nats of mean noise where it cannot be measured; about that of bfloat16 models of 0.1B parameters."""


def arithmetic_noise(
    model: PreTrainedModel,
    sequences: Sequence[Tensor],
    logprobs: Tensor,
    compute: Callable[[PreTrainedModel, Sequence[Tensor]], Tensor],
) -> float:
    """Mean |difference| in nats between the model's log-probabilities and those of its float32 forward.

    logprobs: `compute(model, sequences)` in the model's own precision.
    """
    try:
        with in_float32(model):
            exact = compute(model, sequences)
    except (RuntimeError, TypeError):  # a module reads another one's weights directly
        return FALLBACK
    return (exact - logprobs).abs().mean().item()


@contextmanager
def in_float32(model: nn.Module) -> Iterator[None]:
    """Compute in float32 with the weights as they are.

    Each module's own weights are widened while it runs and given back afterwards, so that no
    second model is needed.
    """
    narrow: dict[nn.Parameter, Tensor] = {}

    def widen(module: nn.Module, inputs: tuple) -> tuple:
        for parameter in module.parameters(recurse=False):
            if parameter.dtype in (torch.bfloat16, torch.float16):
                narrow[parameter] = parameter.data
                parameter.data = parameter.data.float()
        return inputs

    def give_back(module: nn.Module, inputs: tuple, output: object) -> None:
        for parameter in module.parameters(recurse=False):
            if parameter in narrow:
                parameter.data = narrow.pop(parameter)

    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(widen))
        handles.append(module.register_forward_hook(give_back))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, data in narrow.items():
            parameter.data = data
