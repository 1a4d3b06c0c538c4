"""An engine that replays given completions: for tests of everything downstream, without a model and without torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rlcore.errors import EngineError
from rlcore.rollout.engine import SequenceScore
from rlcore.rollout.partial import Draft, check_requests
from rlcore.types import Completion, Request

if TYPE_CHECKING:
    import torch

Script = Callable[[Request], "str | list[int]"] | Mapping[str, "str | list[int]"]


class ScriptedEngine:
    """Replays a script. Example: `ScriptedEngine(lambda request: [4, 1], logprob=-0.5, delay={"slow#0": 10})`.

    `script` gives the whole completion, end-of-sequence included, by request or by request id; text needs `encode`. A
    request's prefix must be a start of it and is not repeated. A completion longer than `max_tokens` is cut there (finish
    "length"). `delay[id]` lets that many polls pass before a request finishes; aborted meanwhile, it returns the share of
    tokens it would have written by then. `score` answers `score()`; without it, the sum of `load`ed weights is all there is.
    """

    def __init__(
        self,
        script: Script,
        *,
        logprob: float = 0.0,
        encode: Callable[[str], list[int]] | None = None,
        delay: Mapping[str, int] | None = None,
        score: Callable[[list[int]], list[float]] | None = None,
        max_length: int = 1 << 30,
        dtype: str | None = None,
        deterministic: bool = True,
    ) -> None:
        self.version = 0
        self.shared, self.deterministic = False, deterministic
        self._script, self._logprob, self._encode, self._score = script, logprob, encode, score
        self._delay = dict(delay or {})
        self._max_length, self._dtype = max_length, dtype
        self._live: dict[
            str, tuple[Draft, list[int], int]
        ] = {}  # draft, completion still to come, polls to wait
        self._done: list[Completion] = []
        self._fingerprint = ""

    def submit(self, requests: Sequence[Request]) -> None:
        """Look the completions up and queue them."""
        check_requests(requests, self._live, self._max_length)
        for request in requests:
            self._live[request.id] = (
                Draft(request=request),
                self._answer(request),
                self._delay.get(request.id, 0),
            )

    def poll(self, timeout_s: float) -> list[Completion]:
        """One tick: everything that is not delayed any more finishes."""
        for id, (draft, rest, wait) in list(self._live.items()):
            share = -(-len(rest) // (wait + 1)) if wait == 0 else len(rest) // (wait + 1)
            draft.extend(rest[:share], [self._logprob] * share, self.version)
            self._live[id] = (draft, rest[share:], wait - 1)
            if wait == 0:
                del self._live[id]
                cut = len(draft.token_ids) > draft.request.sampling.max_tokens
                self._done.append(_cut(draft).completion("length" if cut else "stop"))
        if not self._done:
            time.sleep(min(timeout_s, 0.001))
        done, self._done = self._done, []
        return done

    def abort(self, request_ids: Sequence[str]) -> None:
        """Close requests with what their delay has let through."""
        for id in request_ids:
            if id in self._live:
                draft, _, _ = self._live.pop(id)
                self._done.append(_cut(draft).completion("aborted"))

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Keep the fingerprint of the weights, nothing else."""
        from rlcore.rollout.publish import fingerprint

        self._fingerprint = fingerprint((tensor for _, tensor in weights), self._dtype)
        self.version = version

    def fingerprint(self) -> str:
        """Fingerprint of the last `load`; empty before it."""
        return self._fingerprint

    def score(self, sequences: Sequence[list[int]], top_k: int = 0) -> list[SequenceScore]:
        """What the given `score` function says of each sequence."""
        if self._score is None:
            raise EngineError("this scripted engine cannot score; give it score=")
        if top_k:
            raise EngineError(
                "a scripted engine knows no other tokens; call score with top_k=0"
            )
        empty: list[dict[int, float]] = [{}] * (max(map(len, sequences), default=1) - 1)
        return [SequenceScore(self._score(ids), empty[: len(ids) - 1]) for ids in sequences]

    def close(self) -> None:
        """Forget all requests."""
        self._live.clear()

    def _answer(self, request: Request) -> list[int]:
        answer = self._script(request) if callable(self._script) else self._script[request.id]
        if isinstance(answer, str):
            if self._encode is None:
                raise EngineError(
                    "this scripted engine was given text and no tokenizer; give it encode="
                )
            answer = self._encode(answer)
        start = len(request.prefix_ids)
        if list(answer[:start]) != list(request.prefix_ids):
            raise EngineError(
                f"the script of request {request.id!r} does not begin with the request's prefix"
            )
        return list(answer[start:])


def _cut(draft: Draft) -> Draft:
    limit = draft.request.sampling.max_tokens
    for values in (draft.token_ids, draft.logprobs, draft.versions, draft.support or []):
        del values[limit:]
    return draft
