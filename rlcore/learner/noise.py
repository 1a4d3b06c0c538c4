"""How far a model's own arithmetic moves its log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
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
        with in_float32():
            exact = compute(model, sequences)
    except (RuntimeError, TypeError):  # a function that takes no float32
        return FALLBACK
    return (exact - logprobs).abs().mean().item()


@contextmanager
def in_float32(rounded_to: torch.dtype | None = None) -> Iterator[None]:
    """Compute in float32 with the weights as they are, or first rounded to a precision.

    A weight is converted where it is used, one at a time, so that no second model is needed. Slow: it is meant for
    measuring how much a model's own arithmetic rounds. Autocast must be off.
    """
    with _Widening(rounded_to), torch.compiler.set_stance("force_eager"):
        yield


class _Widening(TorchFunctionMode):
    """Context in which every function of torch sees float32 in place of bfloat16 and float16."""

    def __init__(self, rounded_to: torch.dtype | None) -> None:
        super().__init__()
        self.rounded_to = rounded_to

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        args, kwargs = tree_map(self._widened, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _widened(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.dtype in (torch.bfloat16, torch.float16):
            return value.float()
        is_weight = isinstance(value, Parameter) and value.dtype == torch.float32
        return value.to(self.rounded_to).float() if is_weight and self.rounded_to else value
