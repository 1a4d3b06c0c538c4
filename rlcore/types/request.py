"""What an engine is asked for and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rlcore.types.task import check_lengths

Finish = Literal["stop", "length", "aborted", "lost"]
"""How a completion ended: end token or stop string, `max_tokens`, asked to stop, or given up by an engine that died."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are drawn. Engine logprobs are those of the distribution these settings define."""

    max_tokens: int
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is off."""
    min_p: float = 0.0
    """Tokens less probable than this fraction of the most probable one are cut off; 0 is off."""
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Always write max_tokens tokens: fixed work for benchmarks."""
    keep_support: bool = False
    """Return which tokens top-k, top-p and min-p kept: the learner needs them to compute the same log-probabilities."""

    @property
    def truncates(self) -> bool:
        """Whether tokens are drawn from less than the whole vocabulary."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0 or self.min_p > 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One completion to be written. `prefix_ids` is a start of the completion that is already fixed (per-step Monte-Carlo, partial
    rollouts); the completion continues it. `n` completions of a prompt are n requests that differ in id and seed."""

    id: str
    prompt_ids: list[int]
    prefix_ids: list[int] = field(default_factory=list)
    sampling: Sampling
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Completion:
    """What the engine returns for one request: tokens after prompt and prefix, the end token included."""

    request_id: str
    token_ids: list[int]  # [L]
    logprobs: list[
        float
    ]  # [L], log-probability of each token under the distribution it was drawn from
    versions: list[int]  # [L], version of the weights that wrote each token
    finish: Finish
    support: list[list[int]] | None = None
    """[L] token ids that truncated sampling kept at each token; None if nothing was truncated or nobody asked."""

    def __post_init__(self) -> None:
        check_lengths(
            "completion",
            self.request_id,
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            versions=self.versions,
            support=self.support,
        )

    @property
    def version_min(self) -> int | None:
        """Oldest version that wrote a token; None where no token was written."""
        return min(self.versions, default=None)

    @property
    def version_max(self) -> int | None:
        """Newest version that wrote a token; None where no token was written."""
        return max(self.versions, default=None)
