"""A process group of the learner's first process and the workers of all servers, in which that process gives weights.

It stands beside the groups of `torch.distributed.init_process_group`, which have no members that come and go: when a server is
lost or comes back, the group is left and another one is made. Between GPUs it is NCCL's, in the memory of hosts gloo's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from rlcore.rollout.network import address_towards

JOIN_S = 60.0
"""Deadline for all members to meet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Meeting:
    """Where the members of a group meet, as one of them is told."""

    host: str
    port: int
    """Of the store that the giver holds."""
    name: str
    """Of the group: no two have the same."""
    first_rank: int
    """Of the workers of one server; the giver has rank 0."""
    size: int
    """Members, the giver included."""
    backend: str
    """`nccl` or `gloo`."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Meeting:
        return cls(**json.loads(text))


class BroadcastGroup:
    """One member of a group. Rank 0 gives, all others take. What fails or takes too long raises `RuntimeError`.

    here: the address of this machine at which the other members reach it.
    """

    def __init__(
        self, store: dist.Store, rank: int, size: int, *, name: str, backend: str, here: str
    ) -> None:
        store = dist.PrefixStore(name, store)
        patience = timedelta(seconds=JOIN_S)
        # gloo itself waits five minutes for a member that never comes
        store.set(f"here/{rank}", "")
        store.wait([f"here/{member}" for member in range(size)], patience)
        self._backend = backend
        self._group: Any
        if backend == "nccl":
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = patience
            self._group = dist.ProcessGroupNCCL(store, rank, size, options)
        else:
            options = dist.ProcessGroupGloo._Options()
            options._timeout = patience
            # by its own name a machine may find an address that the others do not reach
            options._devices = [dist.ProcessGroupGloo.create_device(hostname=here)]
            self._group = dist.ProcessGroupGloo(store, rank, size, options)

    @classmethod
    def join(cls, meeting: Meeting, worker: int) -> BroadcastGroup:
        """Become a member that takes. worker: number of this one among those of its server."""
        patience = timedelta(seconds=JOIN_S)
        store = dist.TCPStore(meeting.host, meeting.port, is_master=False, timeout=patience)
        return cls(
            store,
            meeting.first_rank + worker,
            meeting.size,
            name=meeting.name,
            backend=meeting.backend,
            here=address_towards(f"tcp://{meeting.host}:{meeting.port}"),
        )

    def give(self, tensors: Mapping[str, torch.Tensor], deadline_s: float) -> None:
        """Broadcast tensors of one type."""
        self._broadcast(torch.cat([tensor.view(-1) for tensor in tensors.values()]), deadline_s)

    def take(
        self, contents: str, dtype: torch.dtype, device: torch.device, deadline_s: float
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """What the giver broadcasts, named. contents: what `contents_of` says of it. device: the worker's."""
        named = [(name, torch.Size(shape)) for name, shape in json.loads(contents)]
        sizes = [math.prod(shape) for _, shape in named]
        place = device if self._backend == "nccl" else torch.device("cpu")
        buffer = torch.empty(sum(sizes), dtype=dtype, device=place)
        self._broadcast(buffer, deadline_s)
        for (name, shape), values in zip(named, buffer.split(sizes), strict=True):
            yield name, values.view(shape)

    def _broadcast(self, buffer: torch.Tensor, deadline_s: float) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.timeout = timedelta(seconds=deadline_s)
        # the current device belongs to the thread
        with torch.cuda.device(buffer.device) if buffer.is_cuda else nullcontext():
            # with a time, NCCL's waiting too is of the host and not only of the stream
            self._group.broadcast([buffer], options).wait(options.timeout)


def contents_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """Names and shapes, in the order in which `BroadcastGroup.give` sends them."""
    return json.dumps([[name, list(tensor.shape)] for name, tensor in tensors.items()])
