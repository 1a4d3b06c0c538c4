"""Which of several vLLM servers are alive: watching them, choosing one for a request, giving up one and taking it back."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import httpx

from rlcore.errors import EngineError
from rlcore.rollout.server_client import Server, ServerError
from rlcore.types import Request

WATCH_S = 1.0
"""Between two looks of a rank at the servers, at least."""
LOOKS = 50
"""At a server, of all ranks together, in a second at most: more would take from its generation."""
OTHERS_S = 60.0
"""How long a server that does not answer at the start is waited for when another one does."""
SAY_S = 20.0
"""Between two words about a server that is waited for."""
MISSES = 3
"""Health checks that fail before a server counts as dead; each takes up to `HEALTH_S`."""
FAILURES = 3
"""Completions that fail one after another before a server that still answers counts as dead."""
IMBALANCE = 8
"""Requests that a server may have more than twice as many as another, if it has read their prompt."""

Act = Callable[[Server], Awaitable[None]]
Refresh = Callable[[Server], Awaitable[bool]]
"""Gives a server the present weights if it lacks them; whether it has them."""


class ServerPool:
    """The servers of one engine, as one rank sees them. To be used inside one event loop."""

    def __init__(
        self,
        urls: Sequence[str],
        http: httpx.AsyncClient,
        *,
        max_length: int,
        dtype: str,
        rank: int,
        ranks: int = 1,
    ) -> None:
        """max_length, dtype: what the run asks of every server."""
        self._max_length, self._dtype = max_length, dtype
        self._watch_s = max(WATCH_S, ranks / LOOKS)
        self._speaks = rank == 0
        # each rank begins with another server
        turned = [urls[(i + rank) % len(urls)] for i in range(len(urls))]
        self.servers = [Server(url, http) for url in turned]
        self.none_since: float | None = None
        """Monotonic time since which no server is alive."""
        self._readers: dict[tuple[int, ...], Server] = {}
        self._until = 0.0
        """Monotonic time until which servers that start are waited for."""

    @property
    def alive(self) -> list[Server]:
        return [server for server in self.servers if server.alive]

    @property
    def whys(self) -> str:
        """Why each server that is not alive is not."""
        dead = [server for server in self.servers if not server.alive]
        return "; ".join(f"{server.url}: {server.why}" for server in dead)

    async def wait_for_start(
        self, deadline_s: float, why_ended: Callable[[str], str | None]
    ) -> None:
        """Wait for servers that are starting. why_ended: of the server at this address, if its process has ended.

        Raises `EngineError` if none is there at the deadline.
        """
        self._until = time.monotonic() + deadline_s
        waits = [self._wait_for(server, why_ended) for server in self.servers]
        await asyncio.gather(*waits)
        if self.alive:
            return
        late = time.monotonic() > self._until
        within = f" within {deadline_s:g} s" if late else ""
        remedy = ", or raise engine.start_deadline_s" if late else ""
        raise EngineError(
            f"no server has started{within} ({self.whys}); look at the log of `rlcore serve`{remedy}"
        )

    async def _wait_for(self, server: Server, why_ended: Callable[[str], str | None]) -> None:
        said = time.monotonic()
        try:
            while not await server.is_healthy():
                ended = why_ended(server.url)
                server.why = ended or f"it does not answer at /health: {server.silence}"
                if ended or time.monotonic() > self._until:
                    return
                if time.monotonic() > said + SAY_S:
                    said = time.monotonic()
                    self._say(
                        f"waiting for {server.url}, which does not answer yet ({server.silence})"
                    )
                await asyncio.sleep(0.25)
        except ServerError as error:  # another program
            server.why = str(error)
            return
        await self._check(server)
        server.alive = True
        self._until = min(self._until, time.monotonic() + OTHERS_S)

    def _say(self, text: str) -> None:
        if self._speaks:
            print(text, file=sys.stderr, flush=True)

    async def _check(self, server: Server) -> None:
        """Raise `EngineError` where a server does not fit the run."""
        try:
            longest = await server.longest()
            dtype, *others = await server.call("rlcore_dtype")
        except ServerError as error:
            raise EngineError(
                f"{error}; start the server with `rlcore serve RECIPE`, which gives it what rlcore needs"
            ) from error
        server.workers = 1 + len(others)
        if longest < self._max_length:
            raise EngineError(
                f"{server.url} takes {longest} tokens and engine.max_length is {self._max_length}; "
                "start it with this recipe: `rlcore serve RECIPE`"
            )
        if dtype != self._dtype:
            raise EngineError(
                f"{server.url} computes in {dtype} and the run in {self._dtype}; "
                "start it with this recipe: `rlcore serve RECIPE`"
            )

    async def choose(self, request: Request, is_wanted: Callable[[], bool]) -> Server | None:
        """The server with the fewest requests, or one that has this prompt in its cache.

        Waits while none is alive; None if the request is not wanted any more.
        """
        prompt = tuple(request.prompt_ids)
        while is_wanted():
            if self.alive:
                least = min(self.alive, key=lambda server: len(server.posts))
                reader = self._readers.get(prompt)
                if reader and len(reader.posts) <= 2 * len(least.posts) + IMBALANCE:
                    return reader
                self._readers[prompt] = least
                return least
            await asyncio.sleep(0.1)
        return None

    def forget_prompts(self) -> None:
        """The caches of all servers were emptied."""
        self._readers.clear()

    def failed(self, server: Server, error: ServerError) -> None:
        """A completion has failed."""
        server.failures += 1
        if error.kind == "unreachable" or server.failures >= FAILURES:
            self.bury(server, str(error))

    def bury(self, server: Server, why: str) -> None:
        """Count a server as dead and cancel what is under way there."""
        if server.alive:
            is_last = len(self.alive) == 1
            where = "wait until one comes back" if is_last else "are asked for elsewhere"
            self._say(
                f"lost {'the last' if is_last else 'a'} server, its requests {where}: {why}"
            )
        server.alive, server.why = False, why
        for post in list(server.posts.values()):
            post.task.cancel()
        self._readers = {p: other for p, other in self._readers.items() if other is not server}
        if not self.alive and self.none_since is None:
            self.none_since = time.monotonic()

    async def on_all(self, act: Act) -> None:
        """Do something with every server that is alive; those where it fails are dead."""
        await asyncio.gather(*(self._on_one(act, server) for server in self.alive))

    async def _on_one(self, act: Act, server: Server) -> ServerError | None:
        try:
            await act(server)
        except ServerError as error:
            self.bury(server, str(error))
            return error
        return None

    async def on_all_or_one(self, act: Act, deadline_s: float) -> None:
        """`on_all`, and while no server is left with those that come back.

        Raises `EngineError` after the deadline, and at once where all servers have answered that it failed.
        """
        outcomes = await asyncio.gather(*(self._on_one(act, server) for server in self.alive))
        if outcomes and all(error and error.kind != "unreachable" for error in outcomes):
            raise EngineError(
                f"no server has taken the weights ({self.whys}). Servers of another model or dtype refuse them; "
                "`rlcore serve RECIPE` starts the right ones"
            )
        began = time.monotonic()
        while not self.alive:
            self.raise_if_late(began, deadline_s)
            await asyncio.sleep(WATCH_S)
            for server in self.servers:
                try:
                    if await server.is_healthy():
                        await act(server)
                        self._revive(server)
                except ServerError as error:
                    server.why = str(error)

    async def wait_for_one(self, deadline_s: float) -> None:
        """Wait until the watcher knows a server that is alive. Raises `EngineError` after the deadline."""
        began = time.monotonic()
        while not self.alive:
            self.raise_if_late(began, deadline_s)
            await asyncio.sleep(0.05)

    async def wait_for_answering(
        self, since: float, deadline_s: float, besides: Sequence[Server] = ()
    ) -> list[Server]:
        """The servers that are alive and those that have come back, by address.

        While there are none it waits. besides: servers that are taken back only if there is no other. Raises `EngineError`
        after the deadline. since: the monotonic time from which it counts.
        """
        while True:
            away = [server for server in self.servers if not server.alive]
            await asyncio.gather(
                *(self._look_for(server) for server in away if server not in besides)
            )
            if self.alive:
                return sorted(self.alive, key=lambda server: server.url)
            self.raise_if_late(since, deadline_s)
            besides = ()
            await asyncio.sleep(WATCH_S)

    async def _look_for(self, server: Server) -> None:
        try:
            if await server.is_healthy():
                await self._check(server)
                self._revive(server)
        except EngineError as error:
            server.why = str(error)

    def raise_if_late(self, since: float, deadline_s: float) -> None:
        """Raise `EngineError` if no server has been alive for too long. since: monotonic time."""
        if time.monotonic() - since > deadline_s:
            raise EngineError(
                f"no server has answered for {deadline_s:g} s ({self.whys}); start them again with "
                "`rlcore serve` and go on with --resume"
            )

    def _revive(self, server: Server) -> None:
        server.alive, server.failures = True, 0
        self.none_since = None
        self._say(f"{server.url} is used again")

    async def watch(self, refresh: Refresh) -> None:
        """Look at every server each second, or less often where there are many ranks, for ever."""
        while True:
            await asyncio.sleep(self._watch_s)
            await asyncio.gather(*(self._look_at(server, refresh) for server in self.servers))

    async def _look_at(self, server: Server, refresh: Refresh) -> None:
        try:
            healthy = await server.is_healthy()
        except ServerError:
            healthy = False
        server.misses = 0 if healthy else server.misses + 1
        if server.alive and server.misses >= MISSES:
            self.bury(
                server,
                f"{server.url} gave no answer at /health {MISSES} times: {server.silence}",
            )
        if server.alive or not healthy:
            return
        try:
            await self._check(server)
            if await refresh(server):
                self._revive(server)
        except EngineError as error:
            server.why = str(error)
