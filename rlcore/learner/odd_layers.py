"""Linear layers that an adapter cannot change: their weight is used otherwise than by their own product.

An adapter adds its product to what a layer returns when it is called. Routers of some mixtures are
linear by class and return something else, and some models read the weight of a layer that they never
call (`linear(x, self.classifier.weight.float())`). There the adapter would be trained to no effect,
or break the model, and its merged weights would be those of another model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

_TOKENS = 8
"""Length of the text on which the model is watched."""


def odd_linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of those layers of a model without adapter, in its order; without the output head."""
    head = model.get_output_embeddings()  # it may be tied to the input's
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    read_outside = _read_outside(model, layers)
    return [
        name
        for name, module in layers.items()
        if type(module).forward is not nn.Linear.forward or name in read_outside
    ]


@torch.no_grad()
def _read_outside(model: PreTrainedModel, layers: Mapping[str, nn.Linear]) -> set[str]:
    """Layers of which the model's forward on a short text reads the weight outside of their own call."""
    watch = _Watch(layers)
    handles = [
        handle
        for name, module in layers.items()
        for handle in (
            module.register_forward_pre_hook(watch.enter(name)),
            module.register_forward_hook(watch.leave(name)),
        )
    ]
    try:
        with watch:
            model(input_ids=torch.arange(_TOKENS, device=model.device)[None], use_cache=False)
    except Exception:  # a model that cannot run is told by the load check
        pass
    finally:
        for handle in handles:
            handle.remove()
    return watch.outside


class _Watch(TorchFunctionMode):
    """Which weights go into functions of torch while their layers are not being called."""

    def __init__(self, layers: Mapping[str, nn.Linear]) -> None:
        super().__init__()
        self.outside: set[str] = set()
        self._names = {id(layer.weight): name for name, layer in layers.items()}
        self._running: set[str] = set()

    def enter(self, name: str) -> Callable[..., None]:
        return lambda *_: self._running.add(name)

    def leave(self, name: str) -> Callable[..., None]:
        return lambda *_: self._running.discard(name)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # Reading its type, shape or device computes nothing.
        if isinstance(result, Tensor):
            for value in (*args, *(kwargs or {}).values()):
                name = self._names.get(id(value))
                if name is not None and name not in self._running:
                    self.outside.add(name)
        return result
