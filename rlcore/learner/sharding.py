"""Tensors that FSDP2 holds in parts over the ranks: whole for checkpoints and engines, and in parts again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer


def reshard(module: nn.Module) -> None:
    """Put a sharded module's parameters back in parts: after a forward pass without backward FSDP2 leaves some of them whole."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The full tensor on every rank, of one that is in parts; collective. Others are themselves."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(state: Any) -> Any:
    """Nested dicts and lists with whole tensors in place of those in parts: on the CPU of the first rank, None elsewhere.

    Collective, one tensor after another, so that no device holds more than one of them.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if dist.get_rank() == 0 else None
    if isinstance(state, Mapping):
        return {key: gathered(value) for key, value in state.items()}
    return [gathered(value) for value in state] if isinstance(state, list) else state


def in_parts(value: Any, like: Tensor) -> Any:
    """A whole tensor, which every rank has, in parts as `like` is; anything else, and where `like` is whole, as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(
        value.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def optimizer_in_parts(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser's gathered `state_dict`, in parts as its parameters are."""
    if "parts" in state:  # of `optim.Several`
        return {
            "parts": [
                optimizer_in_parts(own, part)
                for own, part in zip(state["parts"], optimizer.parts, strict=True)
            ]
        }
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states = {
        i: {name: in_parts(x, parameters[i]) for name, x in own.items()}
        for i, own in state["state"].items()
    }
    return {**state, "state": states}
