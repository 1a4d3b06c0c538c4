"""vLLM servers as the engine: one engine for all ranks of the learner, on any number of machines.

A request is one HTTP call, and lies under one version of the weights: none is under way while weights change, because every
rank has taken its requests back (`Generator.drain`) before `load` begins. So the version of each token is known.

    learner ranks                                 servers
    submit   POST /v1/completions ------------->  generate under version v
    drain    POST /abort_requests ------------->  hand back the tokens so far
    load     (all ranks meet: nothing is under way)
             rank 0: pause, load files, resume -> serve version v + 1
             (all ranks meet)
    submit   the rest of each completion, with the tokens so far as its prefix

A server that dies, freezes or answers nonsense costs what was under way there: such requests come back as "lost", and the
generator asks for the rest elsewhere. A server that comes back is used again as soon as it holds the present weights; rank 0
gives them to one that does not.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from rlcore.errors import EngineError, PublishError
from rlcore.rollout.engine import SequenceScore
from rlcore.rollout.partial import check_requests
from rlcore.rollout.served_weights import ServedWeights
from rlcore.rollout.server_client import ADAPTER, Server, ServerError
from rlcore.rollout.server_pool import ServerPool
from rlcore.rollout.server_process import ServerProcesses, ServerSettings
from rlcore.rollout.server_requests import ServerRequests
from rlcore.rollout.vllm_config import read_config, read_special_tokens
from rlcore.types import Completion, Request

SERVERS = "RLCORE_SERVERS"
"""Environment variable with the addresses of servers, separated by commas."""
SCORE_S = 600.0
"""Deadline for the log-probabilities of one sequence."""

T = TypeVar("T")


class VllmServers:
    """Samples from vLLM servers that all ranks share.

    servers: addresses as http://host:8000, started by `rlcore serve`; by default those in the environment variable
    `RLCORE_SERVERS`. start: start so many on this machine instead. tensor_parallel: GPUs of each of these. memory_gb: size of
    their key-value cache. folder: where weights are written for the servers to read; memory of this machine by default, from
    which servers elsewhere fetch them, or a folder that all machines share. in_flight: load weights while completions are under
    way, which go on under the new ones; else a load waits for them. reconnect_s: longest time without any server.
    start_deadline_s: longest wait for servers to start, those of others too.

    Raises `EngineError`.
    """

    shared = True
    deterministic = False

    def __init__(
        self,
        model_folder: str | Path,
        *,
        dtype: str = "float32",
        max_length: int,
        max_sequences: int = 256,
        adapter_rank: int | None = None,
        servers: Sequence[str] = (),
        start: int = 0,
        tensor_parallel: int = 1,
        memory_gb: float | None = None,
        folder: str | None = None,
        in_flight: bool = True,
        start_deadline_s: float = 600.0,
        reconnect_s: float = 600.0,
    ) -> None:
        check_settings(
            servers=servers, start=start, tensor_parallel=tensor_parallel, folder=folder
        )
        self.version = 0
        self.in_flight = in_flight
        self._max_length, self._dtype, self._reconnect_s = max_length, dtype, reconnect_s
        self._has_adapter = adapter_rank is not None
        self._state = PartialState()
        config = read_config(model_folder, 1, max_length)
        self._special = read_special_tokens(model_folder, config)
        self._vocabulary = int(config.vocab_size)
        self._processes: ServerProcesses | None = None
        urls: list[str] = []  # rank 0 knows those of servers that it starts
        if start and self._is_main:
            settings = ServerSettings(
                model=str(model_folder),
                dtype=dtype,
                max_length=max_length,
                max_sequences=max_sequences,
                tensor_parallel=tensor_parallel,
                adapter_rank=adapter_rank,
                memory_gb=memory_gb,
            )
            self._processes = ServerProcesses(settings, start, say=_say)
            urls = self._processes.urls
        elif not start:
            urls = addresses(servers)
        self._run, urls = self._from_main((uuid.uuid4().hex[:12], urls))
        self._weights = ServedWeights(
            self._run, urls, folder=folder, dtype=dtype, adapter=self._has_adapter
        )
        self._updating = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._call(self._open(urls, start_deadline_s))
        except EngineError:
            self.close()
            raise

    # the protocol ----------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[Request]) -> None:
        """Send requests, each to the server with the fewest or to one that has read its prompt."""
        check_requests(requests, self._requests.ids, self._max_length)
        self._call(self._requests.start(requests, self.version, self._model))

    def poll(self, timeout_s: float) -> list[Completion]:
        """Wait until a completion has arrived or the time is up."""
        done = self._requests.take_done(timeout_s)
        if not done and self._processes and self._processes.ended:
            raise EngineError(f"all servers have ended: {self._processes.whys}")
        none_since = self._pool.none_since
        if not done and none_since:
            self._pool.raise_if_late(none_since, self._reconnect_s)
        return done

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop requests; the tokens that the servers have so far come back."""
        self._call(self._requests.abort(request_ids))

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Have all servers serve these weights. Collective: every rank calls it, rank 0 gives its weights.

        Raises `EngineError` if no server has taken them.
        """
        if self._requests.ids:
            raise EngineError(
                f"{len(self._requests.ids)} requests are under way while weights are loaded; drain them before"
            )
        self._updating = True
        self._weights.begin()
        self._state.wait_for_everyone()
        if self._is_main:
            self._weights.write(weights)
            self._call(self._pool.on_all_or_one(self._weights.give, self._reconnect_s))
        else:
            for _ in weights:  # gathering the shards of a parameter needs every rank
                pass
        self._state.wait_for_everyone()
        self.version = version
        self._pool.forget_prompts()
        self._call(self._pool.on_all(self._weights.check))
        self._updating = False

    def fingerprint(self) -> str:
        """Fingerprint of what every server holds. Collective. Raises `PublishError` if they differ."""
        texts = self._from_main(self._fingerprints() if self._is_main else {})
        if len(set(texts.values())) > 1:
            held = "; ".join(f"{url}: {text}" for url, text in texts.items())
            raise PublishError(f"the servers hold different weights: {held}")
        self._weights.fingerprint = next(iter(texts.values()))
        return self._weights.fingerprint

    def score(self, sequences: Sequence[list[int]], top_k: int = 0) -> list[SequenceScore]:
        """Prompt log-probabilities, all from one server: another one for each rank and version."""
        return self._call(self._score(sequences, top_k))

    def close(self) -> None:
        """Give up what is under way, and end the servers that this engine has started."""
        if self._loop.is_running():
            self._call(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
        if self._processes is not None:
            self._processes.close()
        self._weights.remove()

    # ranks -------------------------------------------------------------------------------------------------------

    @property
    def _is_main(self) -> bool:
        return self._state.process_index == 0

    def _from_main(self, value: T) -> T:
        """The value that rank 0 has."""
        values = [value]
        if self._state.num_processes > 1:
            broadcast_object_list(values)
        return values[0]

    def _fingerprints(self) -> dict[str, str]:
        texts: dict[str, str] = {}

        async def ask(server: Server) -> None:
            texts[server.url] = await self._weights.fingerprint_of(server)

        while not texts:
            self._call(self._pool.wait_for_one(self._reconnect_s))
            self._call(self._pool.on_all(ask))
        return texts

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run in the event loop, from another thread. What takes long in there has deadlines of its own."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # inside the event loop ---------------------------------------------------------------------------------------

    async def _open(self, urls: Sequence[str], deadline_s: float) -> None:
        # vLLM closes a connection after an error, and a pooled one would fail at its next use
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(timeout=None, limits=limits)
        self._pool = ServerPool(
            urls,
            self._http,
            max_length=self._max_length,
            dtype=self._dtype,
            rank=self._state.process_index,
            ranks=self._state.num_processes,
        )
        processes = self._processes
        await self._pool.wait_for_start(
            deadline_s, processes.why_ended if processes else lambda url: None
        )
        self._requests = ServerRequests(
            self._pool,
            name=f"{self._run}-{self._state.process_index}",
            special=self._special,
            vocabulary=self._vocabulary,
        )
        self._watching = asyncio.create_task(self._pool.watch(self._refresh))

    def _model(self, server: Server) -> str:
        return ADAPTER if self._has_adapter and self.version else server.model

    async def _refresh(self, server: Server) -> bool:
        """Whether a server that was away serves the present version; rank 0 gives it to one that does not."""
        if self._updating:
            return False
        if self._is_main and self._weights.fingerprint:
            await self._weights.restore(server)
        elif not await self._weights.is_served(server):
            server.why = "it waits for the present weights"
            return False
        return not self._updating

    async def _score(self, sequences: Sequence[list[int]], top_k: int) -> list[SequenceScore]:
        while True:
            await self._pool.wait_for_one(self._reconnect_s)
            alive = sorted(self._pool.alive, key=lambda server: server.url)
            server = alive[(self._state.process_index + self.version) % len(alive)]
            try:
                # one by one: the head of a server with an adapter fails on several prompts at once
                return [
                    await server.score(self._model(server), tokens, top_k, SCORE_S)
                    for tokens in sequences
                ]
            except ServerError as error:
                self._pool.bury(server, str(error))

    async def _close(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()


def addresses(servers: Sequence[str] = ()) -> list[str]:
    """The recipe's servers or the environment's, each once. Raises `EngineError` if there are none."""
    named = list(servers) or os.environ.get(SERVERS, "").split(",")
    urls = list(dict.fromkeys(url.strip().rstrip("/") for url in named if url.strip()))
    if not urls:
        raise EngineError(
            f"engine vllm_server has no server: set engine.servers or {SERVERS} to addresses that "
            "`rlcore serve RECIPE` prints, or engine.start to a number of servers to start here"
        )
    _check_addresses(urls)
    return urls


def check_settings(
    *,
    servers: Sequence[str] = (),
    start: int = 0,
    tensor_parallel: int = 1,
    folder: str | None = None,
    **others: Any,
) -> None:
    """Raise `EngineError` for settings that can be seen to be wrong without a model."""
    for name, value, least in (("start", start, 0), ("tensor_parallel", tensor_parallel, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise EngineError(f"engine.{name} is {value!r}: it is a whole number from {least}")
    if start and servers:
        raise EngineError("engine.start and engine.servers are both set: keep one of them")
    _check_addresses(servers)
    if folder is not None and not Path(folder).is_dir():
        raise EngineError(
            f"engine.folder is {folder!r}, which is no folder here: make it, where the servers see it too"
        )


def _check_addresses(urls: Sequence[str]) -> None:
    for url in urls:
        if (
            urlsplit(str(url)).scheme not in ("http", "https")
            or not urlsplit(str(url)).hostname
        ):
            raise EngineError(
                f"{url!r} is no address of a server: write it whole, as http://host:8000"
            )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
