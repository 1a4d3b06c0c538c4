"""A completion being written: the bookkeeping every engine shares."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from rlcore.errors import EngineError
from rlcore.types import Completion, Finish, Request


@dataclass(kw_only=True, slots=True)
class Draft:
    """What has been written for one request so far."""

    request: Request
    token_ids: list[int] = field(default_factory=list)  # [L]
    logprobs: list[float] = field(default_factory=list)  # [L]
    versions: list[int] = field(default_factory=list)  # [L]
    support: list[list[int]] | None = None  # [L], where the request keeps it

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        if sampling.keep_support and sampling.truncates:
            self.support = []

    def extend(
        self,
        token_ids: Sequence[int],
        logprobs: Sequence[float],
        version: int,
        support: Sequence[list[int]] | None = None,
    ) -> None:
        """Append tokens written under `version`; `support`: what truncated sampling kept at each."""
        self.token_ids.extend(token_ids)
        self.logprobs.extend(logprobs)
        self.versions.extend([version] * len(token_ids))
        if self.support is not None:
            if support is None:
                raise EngineError(
                    f"request {self.request.id!r} asks for the tokens that truncated sampling kept, and this engine does "
                    "not report them; use engine.use=hf or vllm_local, or leave out top_p, top_k and min_p"
                )
            self.support.extend(support)

    def completion(self, finish: Finish) -> Completion:
        """Close the draft."""
        return Completion(
            request_id=self.request.id,
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            versions=self.versions,
            finish=finish,
            support=self.support,
        )


def check_requests(requests: Sequence[Request], live: Container[str], max_length: int) -> None:
    """Raise `EngineError` if a request reuses a live id, has an empty prompt, or does not fit `max_length` tokens."""
    new: set[str] = set()
    for request in requests:
        if request.id in live or request.id in new:
            raise EngineError(
                f"request id {request.id!r} is already being written; give every request in flight its own id"
            )
        new.add(request.id)
        given = len(request.prompt_ids) + len(request.prefix_ids)
        if not given or request.sampling.max_tokens < 1:
            raise EngineError(
                f"request {request.id!r} has {given} prompt tokens and max_tokens {request.sampling.max_tokens}; "
                "both must be at least 1"
            )
        if given + request.sampling.max_tokens > max_length:
            raise EngineError(
                f"request {request.id!r} needs {given} prompt and prefix + {request.sampling.max_tokens} new "
                f"tokens, more than the engine's max_length {max_length}; shorten it or raise max_length"
            )
