"""The reference model of a KL term: the policy as it was, called like the policy's module."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rlcore.learner.module import PackedModule
from rlcore.learner.sharding import in_parts, reshard


def frozen_copy(module: PackedModule, device: torch.device) -> PackedModule:
    """A copy of an unsharded module that keeps the weights of this moment."""
    frozen = copy.deepcopy(module)
    # Mixed precision of accelerate patches `forward` on the instance. The reference runs as it
    # does when a resumed run loads it from disk, without that patch.
    frozen.__dict__.pop("forward", None)
    return frozen.to(device).requires_grad_(False)


class ShardedReference:
    """Reference weights beside a module that FSDP2 has sharded; each rank holds its own shards.

    A call swaps them with the live weights, shard by shard and in place, runs the live module and
    swaps back. FSDP2 gathers layers from the shards, so it gathers the reference's. The swap
    needs no memory beyond the shards of one parameter, and the live weights return bit for bit.
    """

    def __init__(self, module: nn.Module, weights: Sequence[Tensor] | None = None) -> None:
        """weights: full tensors in the order of `module.parameters()`, by default the live ones."""
        reshard(module)  # else `parameters()` would give gathered ones
        self._module = module
        self._shards: list[Tensor] = []
        parameters = list(module.parameters())
        for parameter, weight in zip(parameters, weights or parameters, strict=True):
            shards = in_parts(weight.detach(), parameter)
            self._shards.append(shards.to(parameter.dtype, copy=True))

    @torch.no_grad()
    def __call__(self, *inputs: Any) -> tuple[Tensor, Tensor]:
        reshard(self._module)  # a gathered layer would be read instead of its shards
        self._swap()
        try:
            return self._module(*inputs)
        finally:
            reshard(self._module)
            self._swap()

    def _swap(self) -> None:
        for parameter, shards in zip(self._module.parameters(), self._shards, strict=True):
            live = parameter.detach().clone()
            parameter.copy_(shards)
            shards.copy_(live)
