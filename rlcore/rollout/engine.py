"""What every engine promises. Four back ends keep it: `vllm_local`, `vllm_server`, `hf`, and `scripted` for tests."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rlcore.errors import EngineError
from rlcore.types import Completion, Request

if TYPE_CHECKING:
    import torch

ABORT_GRACE_S = 60.0
"""How long an engine may take to hand back aborted requests."""
POLL_S = 0.2
"""Longest single wait for an engine or a scorer, so that deadlines are noticed in time."""


@dataclass(frozen=True, slots=True)
class SequenceScore:
    """Log-probabilities of one sequence of T tokens at temperature 1."""

    logprobs: list[float]
    """[T - 1], of `sequence[1:]` given what precedes each token."""
    top: list[dict[int, float]]
    """[T - 1], the `top_k` most probable tokens at the same positions; empty dicts with top_k 0."""


class Engine(Protocol):
    """Samples completions under the weights it was last given.

    The completion of a request depends only on the request (seed included) and the weights, up to the round-off of the
    back end's batching. An engine that cannot go on raises `EngineError`.
    """

    version: int
    """Version of the weights being served; 0 until the first `load`."""
    shared: bool
    """Whether one engine outside of this process serves all ranks (servers): it generates while the learner works, and
    `load` and `fingerprint` are collective."""
    in_flight: bool  # of shared engines only
    """Whether weights may be loaded between two requests of a completion. False: completions end under the weights that
    began them. Has no effect where an engine generates only while it is waited for."""
    deterministic: bool
    """Whether requests that are submitted together always get the same completions, bit for bit."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; never blocks. Raises `EngineError` if one does not fit the model's length or reuses a live id."""

    def poll(self, timeout_s: float) -> list[Completion]:
        """Work for at most about `timeout_s` seconds; return what finished, as soon as something has (possibly nothing)."""

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop requests; the tokens written so far come back through `poll` with finish "aborted"."""

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Serve these weights (names and shapes as in transformers' checkpoint) and drop cached prefixes.

        They may be read more than once: each time is a new gathering of what the ranks hold.
        Nothing is in flight when it is called (`Generator.drain`).
        """

    def fingerprint(self) -> str:
        """Fingerprint (`rollout.publish.fingerprint`) of the weights now served."""

    def score(self, sequences: Sequence[list[int]], top_k: int = 0) -> list[SequenceScore]:
        """Log-probabilities at temperature 1 of each sequence, and of the `top_k` best tokens at each position."""

    def close(self) -> None:
        """Free the engine; it is not used again."""


def drain(engine: Engine, waiting: Collection[str], deadline: float) -> Iterator[Completion]:
    """Completions of the requests `waiting` as they finish; what is late at `deadline` (monotonic) is aborted.

    Raises `EngineError` if aborted requests do not come back within `ABORT_GRACE_S`.
    """
    waiting, aborted = set(waiting), False
    while waiting:
        if time.monotonic() > deadline:
            if aborted:
                raise not_handed_back(waiting)
            engine.abort(sorted(waiting))
            aborted, deadline = True, time.monotonic() + ABORT_GRACE_S
        for completion in engine.poll(min(POLL_S, max(0.0, deadline - time.monotonic()))):
            waiting.discard(completion.request_id)
            yield completion


def generate(
    engine: Engine, requests: Sequence[Request], deadline_s: float
) -> list[Completion]:
    """Completions in request order. Raises `EngineError` if some are late; those are aborted first."""
    engine.submit(requests)
    ids = [request.id for request in requests]
    done = {
        completion.request_id: completion
        for completion in drain(engine, ids, time.monotonic() + deadline_s)
    }
    late = [id for id in ids if done[id].finish == "aborted"]
    if late:
        raise EngineError(
            f"{len(late)} of {len(requests)} requests were not finished after {deadline_s:g} s (first: "
            f"{late[0]!r}) and were aborted; raise the deadline or lower max_tokens"
        )
    return [done[id] for id in ids]


def not_handed_back(ids: Collection[str]) -> EngineError:
    """The error of an engine that keeps aborted requests."""
    return EngineError(
        f"the engine did not hand back {len(ids)} aborted requests within {ABORT_GRACE_S:g} s (first: "
        f"{min(ids)!r}); it is stuck or dead: restart the run with --resume"
    )
