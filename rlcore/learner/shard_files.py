"""Sharded tensors in files: each rank writes its own shards, and any number of ranks reads them.

A file (safetensors) has the shards of one rank, and in its metadata where each begins in its full
tensor. No rank holds a full tensor and nothing is collective, so a thread may write. What is read is
cut as the reader needs it: for another number of ranks, or in full by a learner that is not sharded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from rlcore.errors import RunError

STARTS = "starts"
"""Key of a file's metadata: name of a shard -> its first index in each dimension, as JSON."""


class Shards(NamedTuple):
    """What one rank holds of the sharded tensors of a state."""

    tensors: dict[str, Tensor]
    """Name -> local part. The names are the places in the state: learner/optimizer/state/0/exp_avg."""
    starts: dict[str, list[int]]
    """Name -> index in the full tensor of the part's first element."""


def split(state: Any) -> tuple[Any, Shards]:
    """A nested state with empty tensors (device `meta`) in place of those that are sharded, and this rank's shards."""
    shards = Shards({}, {})

    def without_values(tensor: Tensor, name: str) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        _, start = compute_local_shape_and_global_offset(
            tensor.shape, tensor.device_mesh, tensor.placements
        )
        shards.tensors[name] = tensor.to_local().detach()
        shards.starts[name] = list(start)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return _replaced(state, "", without_values), shards


def _replaced(value: Any, name: str, replace: Callable[[Tensor, str], Any]) -> Any:
    """A nested state with what `replace` makes of each tensor and its name."""
    if isinstance(value, Tensor):
        return replace(value, name)
    if isinstance(value, Mapping):
        items = value.items()
        return {key: _replaced(item, _within(name, key), replace) for key, item in items}
    if isinstance(value, list):
        items = enumerate(value)
        return [_replaced(item, _within(name, number), replace) for number, item in items]
    return value


def _within(name: str, key: object) -> str:
    return f"{name}/{key}" if name else str(key)


def write(shards: Shards, path: Path) -> None:
    """Write this rank's shards."""
    # more ranks than rows leave some ranks without a part
    parts = {name: part for name, part in shards.tensors.items() if part.numel()}
    tensors = {name: part.contiguous().cpu() for name, part in parts.items()}
    starts = {name: shards.starts[name] for name in parts}
    save_file(tensors, path, {STARTS: json.dumps(starts)})


def with_stored(state: Any, folder: Path) -> Any:
    """The state that `split` gave, with a `StoredTensor` in place of each empty tensor."""
    files = ShardFiles(folder)

    def stored(tensor: Tensor, name: str) -> Tensor | StoredTensor:
        if not tensor.is_meta:
            return tensor
        return StoredTensor(name, tensor.shape, tensor.dtype, files)

    return _replaced(state, "", stored)


class ShardFiles:
    """The files of all ranks; each is opened when something in it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def parts(self) -> dict[str, list[tuple[Any, list[int]]]]:
        """Name -> an open file that has a part of the tensor, and where the part begins."""
        found: dict[str, list[tuple[Any, list[int]]]] = {}
        for path in sorted(self._folder.glob("rank_*.safetensors")):
            file = safe_open(path, framework="pt")
            for name, start in json.loads(file.metadata()[STARTS]).items():
                found.setdefault(name, []).append((file, start))
        return found


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose parts are in the files of several ranks; only what is asked for is read."""

    name: str
    shape: torch.Size
    dtype: torch.dtype
    files: ShardFiles

    def full(self) -> Tensor:
        return self.part([0] * len(self.shape), self.shape)

    def like(self, sharded: DTensor) -> DTensor:
        """This rank's part, cut as a tensor of the same shape is."""
        mesh, placements = sharded.device_mesh, sharded.placements
        size, start = compute_local_shape_and_global_offset(sharded.shape, mesh, placements)
        return DTensor.from_local(
            self.part(start, size).to(sharded.device),
            mesh,
            placements,
            run_check=False,
            shape=sharded.shape,
            stride=sharded.stride(),
        )

    def part(self, start: Sequence[int], size: Sequence[int]) -> Tensor:
        """The elements from `start` on, `size` of them in each dimension. Raises `RunError` where the files lack some."""
        result = torch.empty(tuple(size), dtype=self.dtype)
        filled = 0
        for file, begin in self.files.parts.get(self.name, []):
            stored = file.get_slice(self.name)
            overlap = [
                (max(a, b), min(a + n, b + m))
                for a, n, b, m in zip(start, size, begin, stored.get_shape(), strict=True)
            ]
            if any(low >= high for low, high in overlap):
                continue
            here = tuple(
                slice(low - a, high - a) for (low, high), a in zip(overlap, start, strict=True)
            )
            there = tuple(
                slice(low - b, high - b) for (low, high), b in zip(overlap, begin, strict=True)
            )
            result[here] = stored[there]
            filled += math.prod(high - low for low, high in overlap)
        if filled < result.numel():
            raise RunError(
                f"the checkpoint has only a part of {self.name}: a file of trainer/shards is missing"
            )
        return result
