"""Optimiser states that wait in the host's memory, so that a device holds them only in an update, a piece at a time.

The idea of ZeRO-Offload (arXiv 2101.06840), but the update itself stays on the device: with the same kernels
on the same numbers it is the update of an optimiser that is not offloaded, bit for bit. Each update sends all states
over the bus twice, which a step of RL, with its generation and its many forward passes, hardly notices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from rlcore.learner.optim import Several
from rlcore.learner.pack import sent
from rlcore.learner.sharding import in_parts

PIECE = 1 << 26
"""Numbers of the parameters whose states are on the device at once, or those of one larger parameter."""


class Offloaded(Optimizer):
    """An optimiser, or `Several`, with its states on the host. Files are those of the optimiser itself."""

    def __init__(self, inner: Optimizer, *, piece: int = PIECE) -> None:
        """piece: see `PIECE`."""
        self._inner = inner
        self._piece = piece
        self._parts = inner.parts if isinstance(inner, Several) else [inner]
        self._host: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)
        """The memory of each parameter's states."""
        super().__init__(inner.param_groups, {})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for part in self._parts:
            groups = part.param_groups
            try:
                for group in groups:
                    for parameters in _pieces(group["params"], self._piece):
                        part.param_groups = [{**group, "params": parameters}]
                        self._step(part, parameters)
            finally:
                part.param_groups = groups
        _wait_for_copies()

    def _step(self, part: Optimizer, parameters: list[Tensor]) -> None:
        for parameter in parameters:
            state = part.state.get(parameter, {})
            for key, value in state.items():
                state[key] = _on_device(value, parameter)
        part.step()
        for parameter in parameters:
            state = part.state.get(parameter, {})
            for key, value in state.items():
                state[key] = self._on_host(value, parameter, key)

    def state_dict(self) -> dict[str, Any]:
        return self._inner.state_dict()

    @torch.no_grad()
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Also of what is sharded otherwise or lies in files: one tensor after another passes through the device."""
        stored_parts = state_dict["parts"] if "parts" in state_dict else [state_dict]
        for part, stored in zip(self._parts, stored_parts, strict=True):
            for group, its in zip(part.param_groups, stored["param_groups"], strict=True):
                group.update({key: value for key, value in its.items() if key != "params"})
                for parameter, number in zip(group["params"], its["params"], strict=True):
                    if number in stored["state"]:
                        values = stored["state"][number]
                        part.state[parameter] = self._loaded(values, parameter, group)
        _wait_for_copies()

    def _loaded(
        self, values: Mapping[str, Any], parameter: Tensor, group: Mapping[str, Any]
    ) -> dict[str, Any]:
        """As torch's optimisers load a state: numbers in the parameter's type, the count of steps where the kernel reads it."""
        loaded = {}
        for key, value in values.items():
            value = in_parts(value, parameter)
            if _is_counter(value):
                in_kernel = group.get("fused") or group.get("capturable")
                loaded[key] = value.to(parameter.device) if in_kernel else value
            else:
                value = value.to(parameter.dtype) if value.is_floating_point() else value
                loaded[key] = self._on_host(value, parameter, key)
        return loaded

    def _on_host(self, value: Any, parameter: Tensor, key: str) -> Any:
        """A state in memory that is its own from the first update on, since new memory that a device can read is dear."""
        if _is_counter(value):
            return value
        local = _local(value)
        memory = self._host[parameter]
        if key not in memory:
            pinned = parameter.device.type == "cuda"
            memory[key] = torch.empty_like(local, device="cpu", pin_memory=pinned)
        return _like(value, memory[key].copy_(local, non_blocking=True))


def _wait_for_copies() -> None:
    """Until what was sent to the host is there: a checkpoint may read it next."""
    if torch.cuda.is_available():
        torch.cuda.current_stream().synchronize()


def _on_device(value: Any, parameter: Tensor) -> Any:
    if _is_counter(value):
        return value
    return _like(value, sent(_local(value), parameter.device))


def _local(tensor: Tensor) -> Tensor:
    """What this process holds of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(value: Tensor, local: Tensor) -> Tensor:
    """A tensor, sharded as `value` is. torch's FSDP too makes shards in the host's memory so: `from_local` would move them."""
    if isinstance(value, DTensor):
        return DTensor(local, value._spec, requires_grad=False)
    return local


def _is_counter(value: Any) -> bool:
    """The number of steps, which is no size worth moving, and whatever else an optimiser keeps that is no array."""
    return not isinstance(value, Tensor) or value.ndim == 0


def _pieces(parameters: list[Tensor], most: int) -> Iterator[list[Tensor]]:
    """Neighbours of at most `most` numbers on this device together, at least one."""
    piece: list[Tensor] = []
    size = 0
    for parameter in parameters:
        numbers = _local(parameter).numel()
        if piece and size + numbers > most:
            yield piece
            piece, size = [], 0
        piece.append(parameter)
        size += numbers
    if piece:
        yield piece
