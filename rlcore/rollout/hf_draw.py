"""Drawing one token per row by inverting the cumulative distribution. [B] rows, [V] vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlcore.types import Sampling


@dataclass(frozen=True, slots=True)
class Settings:
    """Sampling settings of the rows of a batch."""

    temperature: torch.Tensor  # [B], 1 on greedy rows
    greedy: torch.Tensor  # [B] bool
    top_k: torch.Tensor  # [B], V or more is off
    top_p: torch.Tensor  # [B], above 1 is off
    truncates: bool
    """Whether any row uses top-k or top-p; without it nothing is sorted."""

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device) -> Settings:
        """Stack the rows' settings; a greedy row neither scales nor truncates."""
        greedy = [row.temperature == 0 for row in rows]
        top_k = [
            row.top_k if row.top_k > 0 and not cold else 1 << 30
            for row, cold in zip(rows, greedy, strict=True)
        ]
        top_p = [
            row.top_p if row.top_p < 1 and not cold else 2.0
            for row, cold in zip(rows, greedy, strict=True)
        ]
        temperature = [row.temperature or 1.0 for row in rows]
        return cls(
            temperature=torch.tensor(temperature, dtype=torch.float32, device=device),
            greedy=torch.tensor(greedy, device=device),
            top_k=torch.tensor(top_k, device=device),
            top_p=torch.tensor(top_p, dtype=torch.float32, device=device),
            truncates=min(top_k) < 1 << 30 or min(top_p) < 2.0,
        )


def draw(
    logits: torch.Tensor, settings: Settings, uniforms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token for each row of `logits` [B, V] from `uniforms` [B] in [0, 1).

    Returns tokens [B] and their log-probabilities [B] under the scaled, truncated and renormalised distribution.
    """
    scaled = logits.float() / settings.temperature[:, None]
    if settings.truncates:
        scaled = truncate(scaled, settings.top_k, settings.top_p)
    logprobs = scaled.log_softmax(-1)
    cumulative = logprobs.exp().cumsum(-1)
    total = cumulative[:, -1]
    # strictly below the total, so that the first entry above the target exists and is a token of non-zero probability
    target = torch.minimum(
        uniforms.to(total.dtype) * total, torch.nextafter(total, torch.zeros_like(total))
    )
    tokens = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]
    tokens = torch.where(settings.greedy, logprobs.argmax(-1), tokens)
    return tokens, logprobs.gather(1, tokens[:, None])[:, 0]


def truncate(scaled: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Set to -inf what is outside the k largest, then outside the smallest set whose probability reaches p (the token that
    crosses p stays). Ties keep the lower token id."""
    values, order = scaled.sort(dim=-1, descending=True, stable=True)
    values = values.masked_fill(
        torch.arange(values.shape[1], device=values.device) >= top_k[:, None], -torch.inf
    )
    mass = values.softmax(-1)
    values = values.masked_fill(mass.cumsum(-1) - mass >= top_p[:, None], -torch.inf)
    return torch.empty_like(scaled).scatter_(1, order, values)
