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
import sys
import threading
import uuid
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from rlcore.errors import EngineError, PublishError
from rlcore.rollout.engine import SequenceScore
from rlcore.rollout.partial import check_requests
from rlcore.rollout.served_weights import ServedWeights, weight_parts
from rlcore.rollout.server_client import ADAPTER, Server, ServerError
from rlcore.rollout.server_pool import ServerPool
from rlcore.rollout.server_process import ServerProcesses, ServerSettings
from rlcore.rollout.server_requests import ServerRequests
from rlcore.rollout.server_settings import BROADCAST, FILE, addresses, check_settings
from rlcore.rollout.vllm_config import read_config, read_special_tokens
from rlcore.rollout.weight_broadcast import WeightBroadcast
from rlcore.types import Completion, Request

SCORE_S = 600.0
"""Deadline for the log-probabilities of one sequence."""

T = TypeVar("T")


class VllmServers:
    """Samples from vLLM servers that all ranks share.

    servers: addresses as http://host:8000, started by `rlcore serve`; by default those in the environment variable
    `RLCORE_SERVERS`. start: start so many on this machine instead. tensor_parallel: GPUs of each of these. memory_gb: size of
    their key-value cache. transport: how weights get to the servers, "file" or "broadcast" (`WeightBroadcast`; an adapter goes as
    files all the same). folder: where files are written for the servers to read; memory of this machine by default, from which
    servers elsewhere fetch them, or a folder that all machines share. in_flight: load weights while completions are under
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
        transport: str = FILE,
        folder: str | None = None,
        in_flight: bool = True,
        start_deadline_s: float = 600.0,
        reconnect_s: float = 600.0,
    ) -> None:
        check_settings(
            servers=servers,
            start=start,
            tensor_parallel=tensor_parallel,
            folder=folder,
            transport=transport,
        )
        self.version = 0
        self.in_flight = in_flight
        self._max_length, self._dtype, self._reconnect_s = max_length, dtype, reconnect_s
        self._has_adapter = adapter_rank is not None
        self._broadcasts = transport == BROADCAST and not self._has_adapter
        self._state = PartialState()
        config = read_config(model_folder, 1, max_length)
        self._special = read_special_tokens(model_folder, config)
        self._vocabulary = int(config.vocab_size)
        self._processes: ServerProcesses | None = None
        settings = ServerSettings(
            model=str(model_folder),
            dtype=dtype,
            max_length=max_length,
            max_sequences=max_sequences,
            tensor_parallel=tensor_parallel,
            adapter_rank=adapter_rank,
            memory_gb=memory_gb,
        )
        urls = self._start(settings, start) if start else addresses(servers)
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
        if self._broadcasts:
            has_all = self._from_main(self._send(weights))
            while not has_all:
                has_all = self._from_main(self._send(weights, again=True))
        elif self._is_main:
            self._weights.write(weights)
            self._call(self._pool.on_all_or_one(self._weights.give, self._reconnect_s))
        else:
            _read(weights)
        self._state.wait_for_everyone()
        self.version = version
        self._pool.forget_prompts()
        self._call(self._pool.on_all(self._weights.check))
        self._updating = False

    def _send(
        self, weights: Iterable[tuple[str, torch.Tensor]], *, again: bool = False
    ) -> bool:
        """Broadcast the weights. Whether all servers have them, which rank 0 knows; else one was lost on the way."""
        if not self._is_main:
            _read(weights)
            return False
        sent = self._call(self._broadcast.begin(self._reconnect_s, again=again))
        for part in weight_parts(weights, self._dtype, self._broadcast.device):
            # to the end in any case: the other ranks gather as well
            sent = sent and self._call(self._broadcast.send(part))
        return sent and self._call(self._broadcast.finish(self._weights.label))

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

    def _start(self, settings: ServerSettings, count: int) -> list[str]:
        """Start servers on this machine; rank 0 knows their addresses."""
        if not self._is_main:
            return []
        self._processes = ServerProcesses(settings, count, say=_say)
        return self._processes.urls

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
        self._broadcast = WeightBroadcast(self._pool, self._state.device)
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
        if self._is_main and self._weights.fingerprint and not self._broadcasts:
            await self._weights.restore(server)
        elif not await self._weights.is_served(server):
            server.why = f"it waits for the {'next' if self._broadcasts else 'present'} weights"
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


def _read(weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Take part in the gathering of what other ranks send: the shards of a parameter need every rank."""
    for _ in weights:
        pass


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
