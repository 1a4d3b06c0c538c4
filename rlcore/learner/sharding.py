"""FSDP2 shards: gather them for checkpoints and engines, and cut full tensors into shards again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from rlcore.learner.shard_files import StoredTensor


def is_sharded(module: nn.Module) -> bool:
    """Whether FSDP2 has sharded the module or a part of it."""
    return any(isinstance(part, FSDPModule) for part in module.modules())


def reshard(module: nn.Module) -> None:
    """Shard a module's parameters again.

    After a forward pass without a backward pass FSDP2 leaves some of them gathered.
    """
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def full(tensor: Tensor) -> Tensor:
    """The full tensor on every rank (collective). A tensor that is not sharded is returned as is."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    return tensor


def gathered(state: Any) -> Any:
    """Nested dicts and lists with full CPU tensors in place of shards on rank 0, None elsewhere.

    Collective, one tensor after another, so that no device holds more than one full tensor.
    """
    if isinstance(state, DTensor):
        tensor = state.full_tensor()
        return tensor.cpu() if dist.get_rank() == 0 else None
    if isinstance(state, Mapping):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gathered(value) for value in state]
    return state


def in_parts(value: Any, like: Tensor) -> Any:
    """This rank's shards of a full tensor that every rank holds or that is in files, cut as `like` is.

    Anything else is returned as is, and so is a tensor whose `like` is not sharded.
    """
    if isinstance(value, StoredTensor):
        is_alike = isinstance(like, DTensor) and value.shape == like.shape
        return value.like(like) if is_alike else value.full()
    if isinstance(value, DTensor):
        return value
    if not isinstance(like, DTensor) or not isinstance(value, Tensor):
        return value
    if value.shape != like.shape:
        return value
    return distribute_tensor(
        value.to(like.device),
        like.device_mesh,
        like.placements,
        src_data_rank=None,
    )


def optimizer_in_parts(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """A `state_dict` of an optimizer, sharded as its parameters are."""
    if "parts" in state:  # of `optim.Several`
        parts = []
        for part_state, part in zip(state["parts"], optimizer.parts, strict=True):
            parts.append(optimizer_in_parts(part_state, part))
        return {"parts": parts}
    parameters = []
    for group in optimizer.param_groups:
        parameters.extend(group["params"])
    states = {}
    for index, values in state["state"].items():
        like = parameters[index]
        states[index] = {name: in_parts(value, like) for name, value in values.items()}
    return {**state, "state": states}
