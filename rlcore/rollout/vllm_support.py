"""Which tokens truncated sampling kept, as vLLM reports it.

With processed log-probabilities, tokens that top-k, top-p and min-p cut off have the log-probability
-inf, so the finite ones among enough of the largest are the kept ones. (vLLM's own
`return_sampling_mask` also needs a top_k, but then refuses greedy and scoring requests in the same
engine, and its kernel runs on GPUs only.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol

from rlcore.errors import EngineError
from rlcore.types import Request, Sampling


class HasLogprob(Protocol):
    """vLLM's own entry, or one that was read from a server's reply."""

    @property
    def logprob(self) -> float: ...


class LogprobEntry(NamedTuple):
    logprob: float


class SpecialTokens(NamedTuple):
    ends: list[int]
    """At which a completion ends."""
    bans: list[int]
    """That are never sampled (`suppress_tokens` of the generation config)."""

    @property
    def logit_bias(self) -> dict[int, float] | None:
        """What vLLM adds to the logits of banned tokens; None without any.

        -100 is the least that it takes. A token as probable as the best of the others then has e^-100 = 4e-44 times its
        probability.
        """
        return dict.fromkeys(self.bans, -100.0) or None


ROOM = 2
"""Log-probabilities asked for at each token, in multiples of top_k: tokens that tie with the k-th are kept too."""
TOLERANCE = 1e-3
"""How far the probabilities of the kept tokens may add up to less than 1, by round-off."""


def logprobs_needed(sampling: Sampling, vocabulary: int) -> int:
    """Largest log-probabilities to ask for at each token; 0: the drawn token's alone.

    Raises `EngineError` where the kept tokens are wanted and nothing bounds their number.
    """
    if not sampling.keep_support or not sampling.truncates:
        return 0
    if sampling.top_k == 0:
        raise EngineError(
            "vLLM reports which tokens truncated sampling kept only if top_k bounds their number: "
            "set sampling.top_k too (for example 100), leave out top_p and min_p, or use engine.use=hf"
        )
    return min(ROOM * sampling.top_k, vocabulary)


def kept_tokens(logprobs: Mapping[int, HasLogprob], request: Request) -> list[int]:
    """Ids of the kept tokens, whose probabilities add up to 1.

    Raises `EngineError` if there are more of them than were asked for.
    """
    kept = []
    total = 0.0
    for token, entry in logprobs.items():
        if entry.logprob > -math.inf:
            kept.append(token)
            total += math.exp(entry.logprob)
    if total < 1 - TOLERANCE:
        top_k = request.sampling.top_k
        raise EngineError(
            f"request {request.id!r}: more than {ROOM * top_k} tokens tie at the border of top_k {top_k}, so it is "
            "not known which ones vLLM kept; use engine.dtype=float32, another top_k, or no truncation"
        )
    return sorted(kept)
