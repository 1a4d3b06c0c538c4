"""FSDP2 shards: gather them for checkpoints and engines, and cut full tensors into shards again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from rlcore.learner.shard_files import StoredTensor


def device_to_load_on(accelerator: Accelerator) -> torch.device:
    """Where a model is put that the learner trains: on the device, or in the host's memory until it is sharded.

    So a device never holds more than its shards and one whole layer.
    """
    return torch.device("cpu") if accelerator.is_fsdp2 else accelerator.device


def shard(module: nn.Module, accelerator: Accelerator) -> None:
    """Cut a module into shards of all ranks, in place and layer by layer; nothing where accelerate is not set to FSDP2."""
    if accelerator.is_fsdp2:
        fsdp2_prepare_model(accelerator, module)


def rounds(module: nn.Module, count: int) -> int:
    """How many forward passes every rank makes of a module, where this rank needs `count`. Collective if it is sharded.

    FSDP2 gathers layers in each, so all make as many as the one that needs most.
    """
    if not is_sharded(module):
        return count
    most = torch.tensor(count, device=next(module.parameters()).device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)


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


@torch.no_grad()
def copy_trained(source: nn.Module, target: nn.Module) -> None:
    """Give a module the trained parameters of another one like it, whichever of the two are sharded. Collective."""
    for new, old in zip(source.parameters(), target.parameters(), strict=True):
        if old.requires_grad:
            old.copy_(in_parts(full(new.detach()), old))


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
