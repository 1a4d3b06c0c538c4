"""Weights from the learner's first process to all servers at once, without files.

    begin    choose the servers that answer, pause them, and meet their workers in a group, unless it is the group of before
    send     a part of the weights: servers are told its contents over HTTP, and take the numbers from the group
    finish   have the servers use the weights, and note their label

A server that is lost on the way breaks the group, and the others hold a mixture of old and new weights. Nobody generates
with it: the whole is begun again with the servers that are left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from rlcore.errors import EngineError
from rlcore.rollout.broadcast_group import JOIN_S, BroadcastGroup, Meeting, contents_of
from rlcore.rollout.network import address_towards
from rlcore.rollout.served_weights import LOAD_S, deadline_of
from rlcore.rollout.server_client import Server, ServerError
from rlcore.rollout.server_pool import ServerPool

LATER_S = 15.0
"""A server that has waited for its group in vain is given so much longer to say so."""

Ask = Callable[[Server], Awaitable[object]]


class WeightBroadcast:
    """Of the learner's first process. Methods run inside the event loop of the pool.

    device: where the weights are broadcast from: a GPU, with NCCL, or the CPU, with gloo.
    """

    def __init__(self, pool: ServerPool, device: torch.device) -> None:
        self._pool, self.device = pool, device
        self._store: dist.TCPStore | None = None
        self._group: BroadcastGroup | None = None
        self._members: list[Server] = []
        self._groups = 0
        self._is_kept = False
        """Whether the group is of the weights before."""
        self._since = 0.0
        """Monotonic time at which the present weights were begun with."""
        self._lost: list[Server] = []
        """Servers that were given up since then."""

    async def begin(self, deadline_s: float, *, again: bool) -> bool:
        """Whether all servers that answer are ready. again: with the weights that a server was lost with.

        Raises `EngineError` if none answers within the deadline.
        """
        if not again:
            self._since, self._lost = time.monotonic(), []
        servers = await self._pool.wait_for_answering(self._since, deadline_s, self._lost)
        if servers != self._members:
            self._group, self._members = None, servers
        self._is_kept = self._group is not None
        if not await self._all(lambda server: server.pause()):
            return False
        return self._is_kept or await self._meet()

    async def send(self, part: Mapping[str, torch.Tensor]) -> bool:
        """Whether all servers have taken a part of the weights."""
        assert self._group is not None
        size = sum(tensor.nbytes for tensor in part.values())
        dtype = str(next(iter(part.values())).dtype).removeprefix("torch.")
        deadline_s = deadline_of(size)
        arguments = (contents_of(part), dtype, str(deadline_s))
        return await self._all(
            lambda server: server.call(
                "rlcore_take", *arguments, deadline_s=deadline_s + LATER_S
            ),
            asyncio.to_thread(self._group.give, part, deadline_s),
        )

    async def finish(self, label: str) -> bool:
        """Whether all servers serve what was sent."""

        async def serve(server: Server) -> None:
            await server.call("rlcore_loaded", deadline_s=LOAD_S)
            await server.call("rlcore_set_label", label)
            await server.resume()

        return await self._all(serve)

    async def _meet(self) -> bool:
        """Make a group of this process and the workers of all members."""
        here = self._address()
        if self._store is None:
            self._store = dist.TCPStore(
                "0.0.0.0",
                0,
                is_master=True,
                wait_for_workers=False,
                timeout=timedelta(seconds=JOIN_S),
            )
        self._groups += 1
        size = 1 + sum(server.workers for server in self._members)
        meetings: dict[str, Meeting] = {}
        first_rank = 1
        for server in self._members:
            meetings[server.url] = Meeting(
                host=here,
                port=self._store.port,
                name=f"weights_{self._groups}",
                first_rank=first_rank,
                size=size,
                backend="nccl" if self.device.type == "cuda" else "gloo",
            )
            first_rank += server.workers
        meeting = meetings[self._members[0].url]

        def join() -> None:
            self._group = BroadcastGroup(
                self._store, 0, size, name=meeting.name, backend=meeting.backend, here=here
            )

        return await self._all(
            lambda server: server.call(
                "rlcore_join", meetings[server.url].to_json(), deadline_s=JOIN_S + LATER_S
            ),
            asyncio.to_thread(join),
        )

    def _address(self) -> str:
        """This machine's address as all members see it: that towards another machine, if there is one."""
        addresses: list[str] = []
        for server in self._members:
            with suppress(OSError):
                addresses.append(address_towards(server.url))
        elsewhere = [address for address in addresses if not address.startswith("127.")]
        return (elsewhere or addresses or ["127.0.0.1"])[0]

    async def _all(self, ask: Ask, ours: Awaitable[None] | None = None) -> bool:
        """Ask all members, and do our own part of it at the same time. Whether all has succeeded.

        Where something fails, the servers that are to blame are given up. Raises `EngineError` if those are all that
        there were, or if there is none: it would only fail again.
        """
        asked = asyncio.gather(*(self._attempt(ask, server) for server in self._members))
        failure: Exception | None = None
        if ours is not None:
            try:
                await ours
            except RuntimeError as error:
                failure = error
        errors = await asked
        if failure is None and not any(errors):
            return True
        self._group = None
        lost = await self._lose(errors, broken=failure is not None)
        self._lost += lost
        if self._is_kept and not lost:
            # a server was started again since then, and is no member any more
            return False
        answered = all(error is None or error.kind != "unreachable" for error in errors)
        if not lost or (answered and len(lost) == len(self._members)):
            whys = "; ".join(str(error) for error in (*errors, failure) if error)
            raise EngineError(
                f"no server has taken the weights ({whys}). Servers of another model or dtype refuse them; `rlcore "
                "serve RECIPE` starts the right ones. Where the processes do not reach each other, set "
                "engine.transport=file"
            )
        return False

    async def _attempt(self, ask: Ask, server: Server) -> ServerError | None:
        try:
            await ask(server)
        except ServerError as error:
            return error
        return None

    async def _lose(
        self, errors: Sequence[ServerError | None], *, broken: bool
    ) -> list[Server]:
        """Give up the servers that are to blame for errors, one for each member.

        In a group that is broken all members fail, and those that do not answer any more have broken it.
        """
        lost = []
        for server, error in zip(self._members, errors, strict=True):
            if error is None:
                continue
            unreachable = error.kind == "unreachable"
            if not broken or unreachable or not await self._answers(server):
                self._pool.bury(server, str(error))
                lost.append(server)
        return lost

    async def _answers(self, server: Server) -> bool:
        with suppress(ServerError):
            return await server.is_healthy()
        return False
