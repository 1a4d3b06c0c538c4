"""One vLLM server over HTTP: the routes that rlcore uses, and what they answer.

The server is vLLM's own (`vllm.entrypoints.openai.api_server`), started by `rlcore serve` with the worker extension of
`rollout.vllm_weights`. Only routes are used that vLLM 0.26 to 0.32 all have; docs/scale.md lists them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import httpx

from rlcore.errors import EngineError
from rlcore.rollout.engine import SequenceScore
from rlcore.rollout.vllm_support import LogprobEntry, SpecialTokens
from rlcore.types import Request

CONTROL_S = 10.0
"""Deadline of a call that does not compute."""
HEALTH_S = 3.0
ADAPTER = "policy-adapter"
"""Name of the LoRA adapter in a server; the model itself has the name it was started with."""
_TOKEN = "token_id:"
_LOWEST = -9999.0
"""What the server writes for a log-probability of minus infinity."""


class Post(NamedTuple):
    """A request that a server is working on."""

    id: str
    task: asyncio.Task[Any]


class Server:
    """What a client knows of one server. Methods raise `ServerError`."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url.rstrip("/")
        self._http = http
        self.alive = False
        self.why = "not reached yet"
        """Why it is not alive."""
        self.model = ""
        self.workers = 1
        """Tensor-parallel workers."""
        self.posts: dict[str, Post] = {}
        """What is under way here, by request id."""
        self.silence = ""
        """Why the last health check failed."""
        self.misses = 0
        """Health checks that failed, one after another."""
        self.failures = 0
        """Completions that failed, one after another."""

    async def complete(self, id: str, body: Mapping[str, Any]) -> Any:
        """The choice that vLLM returns: token_ids, logprobs, finish_reason. Waits as long as it takes."""
        reply = await self._post("v1/completions", {"request_id": id, **body}, deadline_s=None)
        return _part(reply, "choices", self.url)[0]

    async def score(
        self, model: str, tokens: Sequence[int], top_k: int, deadline_s: float
    ) -> SequenceScore:
        body = {
            "model": model,
            "prompt": list(tokens),
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": top_k,
        }
        reply = await self._post("v1/completions", body, deadline_s=deadline_s)
        entries = _part(_part(reply, "choices", self.url)[0], "prompt_logprobs", self.url)
        logprobs, top = [], []
        for entry, token in zip(entries[1:], tokens[1:], strict=True):
            logprobs.append(float(entry[str(token)]["logprob"]))
            top.append({int(id): v["logprob"] for id, v in entry.items() if v["rank"] <= top_k})
        return SequenceScore(logprobs, top)

    async def abort(self, ids: Sequence[str]) -> None:
        """Ask for the end of what `complete` is waiting for. One that is still on its way is missed: ask again."""
        # vLLM numbers the completions of a request, and puts the kind of endpoint before it
        body = {"request_ids": [f"cmpl-{id}-0" for id in ids]}
        await self._post("abort_requests", body, deadline_s=CONTROL_S)

    async def pause(self) -> None:
        """Accept nothing new, and forget all cached keys and values."""
        await self._post("pause?mode=abort&clear_cache=true", None, deadline_s=CONTROL_S)

    async def resume(self) -> None:
        await self._post("resume", None, deadline_s=CONTROL_S)

    async def call(
        self, method: str, *arguments: str, deadline_s: float = CONTROL_S
    ) -> list[Any]:
        """The results of a method of `WeightExtension`, one for each tensor-parallel worker."""
        body = {"method": method, "args": list(arguments)}
        reply = await self._post("collective_rpc", body, deadline_s=deadline_s)
        return _part(reply, "results", self.url)

    async def load_adapter(self, folder: str, deadline_s: float) -> None:
        """Fill the adapter slot anew, in place."""
        body = {"lora_name": ADAPTER, "lora_path": folder, "load_inplace": True}
        await self._post("v1/load_lora_adapter", body, deadline_s=deadline_s)

    async def is_healthy(self) -> bool:
        """Raises `ServerError`, of the kind "refused", where another program answers."""
        try:
            reply = await self._http.get(f"{self.url}/health", timeout=HEALTH_S)
        except httpx.HTTPError as error:
            self.silence = _in_words(error)
            return False
        if reply.status_code in (400, 401, 403, 404, 405, 501):
            raise ServerError(
                f"{self.url}/health answers {reply.status_code}: it is no vLLM server",
                kind="refused",
            )
        self.silence = f"status {reply.status_code}"
        return reply.status_code == 200

    async def longest(self) -> int:
        """The longest sequence that it takes; also learns the name of its model."""
        try:
            reply = await self._http.get(f"{self.url}/v1/models", timeout=CONTROL_S)
            model = reply.json()["data"][0]
            self.model = str(model["id"])
            return int(model["max_model_len"])
        except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
            raise ServerError(f"{self.url}/v1/models: {_in_words(error)}") from error

    async def _post(self, route: str, body: Any, *, deadline_s: float | None) -> Any:
        where = f"{self.url}/{route.partition('?')[0]}"
        try:
            reply = await self._http.post(f"{self.url}/{route}", json=body, timeout=deadline_s)
        except httpx.HTTPError as error:
            raise ServerError(f"{where}: {_in_words(error)}", kind="unreachable") from error
        if reply.status_code >= 400:
            refused = reply.status_code in (400, 404, 422)
            raise ServerError(
                f"{where} answers {reply.status_code}: {_said(reply)}",
                kind="refused" if refused else "failed",
            )
        try:
            return reply.json()
        except ValueError:
            return {}  # control routes answer with a text or with nothing; others lack a part then


class ServerError(EngineError):
    """A call of a server failed: it was not reached, it refused the request as wrong, or its answer is of no use."""

    def __init__(
        self, message: str, kind: Literal["unreachable", "refused", "failed"] = "failed"
    ) -> None:
        super().__init__(message)
        self.kind = kind


def completion_body(
    request: Request, model: str, special: SpecialTokens, logprobs: int
) -> dict[str, Any]:
    """What `/v1/completions` is asked for: token ids in, token ids and their log-probabilities out."""
    sampling = request.sampling
    return {
        "model": model,
        "prompt": request.prompt_ids + request.prefix_ids,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "repetition_penalty": 1.0,
        "stop": list(sampling.stop),
        "stop_token_ids": [] if sampling.ignore_eos else special.ends,
        "ignore_eos": sampling.ignore_eos,
        "skip_special_tokens": False,
        "seed": request.seed,
        "logit_bias": special.logit_bias,
        "logprobs": logprobs,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }


def tokens_of(choice: Mapping[str, Any], url: str) -> tuple[list[int], list[float]]:
    """([L] token ids, [L] their log-probabilities) of a choice. Raises `ServerError` if they do not fit together."""
    tokens = _part(choice, "token_ids", url)
    if not tokens:
        return [], []
    logprobs = _part(_part(choice, "logprobs", url), "token_logprobs", url)
    if len(logprobs) != len(tokens) or not all(isinstance(value, float) for value in logprobs):
        raise ServerError(f"{url} answers {len(tokens)} tokens with {len(logprobs)} values")
    return list(tokens), [float(value) for value in logprobs]


def entries_of(choice: Mapping[str, Any]) -> list[dict[int, LogprobEntry]]:
    """[L] the largest log-probabilities at each token, as vLLM's own objects hold them."""
    entries = []
    for top in choice["logprobs"]["top_logprobs"]:
        values = {int(name.removeprefix(_TOKEN)): value for name, value in top.items()}
        entries.append(
            {
                token: LogprobEntry(value if value > _LOWEST else -math.inf)
                for token, value in values.items()
            }
        )
    return entries


def _part(reply: Any, name: str, url: str) -> Any:
    """A key of a reply. Raises `ServerError` where it is absent or null: the reply was cut, or is another program's."""
    value = reply.get(name) if isinstance(reply, Mapping) else None
    if value is None:
        raise ServerError(f"{url} answers without {name!r}; is it vLLM's server?")
    return value


def _said(reply: httpx.Response) -> str:
    """The sentence in an error of vLLM's server, which puts it in one of several places; else the answer's beginning."""
    try:
        content = reply.json()
    except ValueError:
        content = None
    while isinstance(content, Mapping):
        content = next(
            (content[key] for key in ("error", "message", "detail") if key in content), None
        )
    return (content if isinstance(content, str) else reply.text).strip()[:300]


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__} {error}".strip()
