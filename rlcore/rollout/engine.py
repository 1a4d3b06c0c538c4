"""What every engine promises. Three back ends keep it: `vllm_local`, `hf`, and `scripted` for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from rlcore.types import Completion, Request

if TYPE_CHECKING:
    import torch


class Engine(Protocol):
    """Writes completions under the weights it was last given.

    The answer to a request depends only on the request (seed included) and the weights, up to the round-off of the back
    end's batching; `hf` is exact for a fixed set of requests. An engine that cannot go on raises `EngineError`.
    """

    version: int
    """Version of the weights being served; 0 until the first `load`."""

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests. Raises `EngineError` if one cannot fit the model's length or reuses a live id."""

    def poll(self, timeout_s: float) -> list[Completion]:
        """Work for at most about `timeout_s` seconds; return what finished, as soon as something has (possibly nothing)."""

    def abort(self, request_ids: Sequence[str]) -> None:
        """Stop requests; the tokens written so far come back through `poll` with finish "aborted"."""

    def load(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Serve these weights (names and shapes as in transformers' checkpoint) from the next token on; drop cached prefixes."""

    def fingerprint(self) -> str:
        """Fingerprint (`rollout.sync.fingerprint`) of the weights now served."""

    def score(self, sequences: Sequence[list[int]]) -> list[list[float]]:
        """Log-probabilities at temperature 1 of `sequence[1:]` given what precedes each token: len - 1 numbers a sequence."""

    def close(self) -> None:
        """Free the engine; the engine is not used again."""
