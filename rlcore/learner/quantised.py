"""The frozen model below an adapter, stored in 4 bits: QLoRA (arXiv 2305.14314, section 3).

A weight is one of 16 values times the scale of its block of 64, and the scales are stored in 8 bits. A layer
widens its weight where it multiplies, in the forward pass and again in the backward pass, so that one widened
weight is held at a time. The widened weights are the model: engines are given them and checkpoints hold
them, so that completions are written by the model that learns, not by the one that it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers import PreTrainedModel

from rlcore.errors import ModelError

Kind = Literal["nf4", "fp4"]
BITS = 4.127
"""Of a number: 4, 8 of the scale of 64 numbers, and 32 of the scale of 256 scales."""


class QuantisedLinear(nn.Linear):
    """A frozen linear layer whose weight is stored in 4 bits; `weight` is the widened one, made anew when it is read."""

    def __init__(
        self, linear: nn.Linear, kind: Kind, device: torch.device | str | None
    ) -> None:
        """device: where the weight is quantised and stays."""
        from bitsandbytes.functional import quantize_4bit

        super(nn.Linear, self).__init__()  # nn.Linear's own would make a weight
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        # No buffers: data parallelism would send them to all processes before each forward pass.
        self._packed, self._scales = quantize_4bit(
            linear.weight.detach().to(device), quant_type=kind, compress_statistics=True
        )

    @property
    def weight(self) -> Tensor:
        """[out_features, in_features], in the data type that the weight had."""
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(self._packed, self._scales)

    def forward(self, values: Tensor) -> Tensor:
        product = _Product.apply(values, self)
        return product if self.bias is None else product + self.bias

    def plain(self) -> nn.Linear:
        """The layer with its widened weight."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        linear.weight = nn.Parameter(self.weight, requires_grad=False)
        linear.bias = self.bias
        return linear

    def _apply(self, function: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(function, recurse)
        # it may also convert, which the stored numbers are not to be
        device = function(torch.empty(0, device=self._packed.device)).device
        if device != self._packed.device:
            self._packed = self._packed.to(device)
            self._scales.to(device)
        return self


class _Product(torch.autograd.Function):
    """values [..., in] times the transposed weight of a layer."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return functional.linear(values, layer.weight.to(values.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ ctx.layer.weight.to(grad.dtype), None


def quantise(model: PreTrainedModel, kind: Kind, device: torch.device | str | None) -> None:
    """Store the frozen linear layers of a model in 4 bits, all but the output head. Raises `ModelError`.

    device: where they are quantised; the model itself may still lie in the memory of the host.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ModelError(
            "model.quantize needs bitsandbytes, which is not installed; run `pip install 'rlcore[quantize]'`"
        ) from None
    for parent, name, linear in list(quantisable(model)):
        setattr(parent, name, QuantisedLinear(linear, kind, device).eval())


def quantisable(model: PreTrainedModel) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(module above it, name in that module, layer) of each layer that `quantise` replaces."""
    head = model.get_output_embeddings()
    for parent in model.modules():
        for name, child in parent.named_children():
            is_frozen = type(child) is nn.Linear and not child.weight.requires_grad
            if is_frozen and child is not head:
                yield parent, name, child


def quantised_layers(model: nn.Module) -> Iterator[tuple[str, QuantisedLinear]]:
    """Name and layer."""
    for name, module in model.named_modules():
        if isinstance(module, QuantisedLinear):
            yield name, module


def num_parameters(module: nn.Module) -> int:
    """Numbers in all parameters, tied ones counted once, those that are stored in 4 bits included."""
    stored = sum(parameter.numel() for parameter in module.parameters())
    return stored + sum(
        layer.in_features * layer.out_features for _, layer in quantised_layers(module)
    )
