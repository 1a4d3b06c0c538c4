"""Requests on their way through vLLM servers, from the choice of a server to the completion that comes back."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Collection, Sequence

from rlcore.errors import EngineError
from rlcore.rollout.partial import Draft
from rlcore.rollout.server_client import (
    Post,
    Server,
    ServerError,
    completion_body,
    entries_of,
    tokens_of,
)
from rlcore.rollout.server_pool import ServerPool
from rlcore.rollout.vllm_support import SpecialTokens, kept_tokens, logprobs_needed
from rlcore.types import Completion, Finish, Request

RETRY_S = 0.5
"""Before a request that failed is handed back, to be asked for again."""
ABORT_AGAIN_S = 0.2

ModelName = Callable[[Server], str]


class ServerRequests:
    """The requests of one rank. Coroutines run in the pool's event loop, `take_done` in another thread.

    name: begins the ids of the HTTP requests, which differ between runs and ranks. Whatever happens to its server, each
    request comes back: finished, as "aborted" where that was asked for, else as "lost".
    """

    def __init__(
        self, pool: ServerPool, *, name: str, special: SpecialTokens, vocabulary: int
    ) -> None:
        self._pool, self._name = pool, name
        self._special, self._vocabulary = special, vocabulary
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._unwanted: set[str] = set()
        self._numbers = itertools.count()
        self._aborting: set[asyncio.Task[None]] = set()
        self._done: list[Completion] = []
        self._failure: EngineError | None = None
        self._arrived = threading.Condition()

    @property
    def ids(self) -> Collection[str]:
        """Of the requests under way."""
        return self._tasks.keys()

    def take_done(self, timeout_s: float) -> list[Completion]:
        """What has come back, waited for if there is nothing. Raises `EngineError` for a request that no server can do."""
        with self._arrived:
            if not self._done and self._failure is None:
                self._arrived.wait(timeout_s)
            if self._failure is not None:
                raise self._failure
            done, self._done = self._done, []
        return done

    async def start(self, requests: Sequence[Request], version: int, model: ModelName) -> None:
        """Send requests. version: of the weights served until all of them are back."""
        needed = [logprobs_needed(r.sampling, self._vocabulary) for r in requests]
        for request, logprobs in zip(requests, needed, strict=True):
            work = self._run(request, version, model, logprobs)
            self._tasks[request.id] = asyncio.create_task(work)

    async def abort(self, ids: Sequence[str]) -> None:
        """Ask for the end of requests; what the servers have of them comes back."""
        wanted = {id for id in ids if id in self._tasks}
        self._unwanted |= wanted
        task = asyncio.create_task(self._abort_until_back(wanted))
        self._aborting.add(task)  # the event loop itself keeps weak references only
        task.add_done_callback(self._aborting.discard)

    async def _abort_until_back(self, ids: set[str]) -> None:
        """Again and again, because an abort may overtake its request. The watcher ends it where the server is dead."""
        while ids := {id for id in ids if id in self._tasks}:
            calls = []
            for server in self._pool.alive:
                posts = [post.id for id, post in server.posts.items() if id in ids]
                if posts:
                    calls.append(server.abort(posts))
            await asyncio.gather(*calls, return_exceptions=True)
            await asyncio.sleep(ABORT_AGAIN_S)

    async def _run(
        self, request: Request, version: int, model: ModelName, logprobs: int
    ) -> None:
        draft = Draft(request=request)
        finish: Finish = "lost"
        failure = None
        try:
            finish = await self._ask(draft, version, model, logprobs)
        except ServerError as error:
            if error.kind == "refused":
                failure = EngineError(
                    f"{error}; the server does not fit this recipe: start it with `rlcore serve RECIPE`"
                )
        except EngineError as error:
            failure = error
        if finish == "lost" and request.id in self._unwanted:
            finish = "aborted"
        self._unwanted.discard(request.id)
        del self._tasks[request.id]
        with self._arrived:
            self._failure = self._failure or failure
            self._done.append(draft.completion(finish))
            self._arrived.notify_all()

    async def _ask(self, draft: Draft, version: int, model: ModelName, logprobs: int) -> Finish:
        """Ask one server for the tokens of a request, and add them to the draft. Raises `EngineError`."""
        request = draft.request
        server = await self._pool.choose(request, lambda: request.id not in self._unwanted)
        if server is None:
            return "aborted"
        body = completion_body(request, model(server), self._special, logprobs)
        id = f"{self._name}-{next(self._numbers)}"
        task = asyncio.create_task(server.complete(id, body))
        server.posts[request.id] = Post(id, task)
        try:
            await asyncio.wait({task})
            if task.cancelled():  # the server was found dead
                return "lost"
            choice = task.result()
            tokens, values = tokens_of(choice, server.url)
            support = None
            if draft.support is not None and tokens:
                support = [kept_tokens(entry, request) for entry in entries_of(choice)]
        except ServerError as error:
            self._pool.failed(server, error)
            await asyncio.sleep(RETRY_S)
            raise
        finally:
            task.cancel()
            del server.posts[request.id]
        server.failures = 0
        draft.extend(tokens, values, version, support)
        reason = choice.get("finish_reason")
        # "abort" where we have not asked for it: another client of the server has
        return reason if reason in ("stop", "length") else "lost"
