"""Drawing one token per row under its own sampling settings. [B] rows, [V] vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlcore.rollout.inversion import draw_by_inversion
from rlcore.types import Sampling

NO_TOP_K = 1 << 30
NO_TOP_P = 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Sampling settings of the rows of a batch."""

    temperature: Tensor  # [B], 1 on greedy rows
    greedy: Tensor  # [B] bool
    top_k: Tensor  # [B], NO_TOP_K is off
    top_p: Tensor  # [B], NO_TOP_P is off
    log_min_p: Tensor  # [B], -inf is off
    truncates: bool
    """Whether any row uses top-k, top-p or min-p; without it nothing is sorted."""

    @classmethod
    def of(cls, rows: Sequence[Sampling], device: torch.device) -> Settings:
        """Stack the rows' settings; a greedy row neither scales nor truncates."""
        temperature = []
        top_k = []
        top_p = []
        log_min_p = []
        for row in rows:
            greedy = row.temperature == 0
            temperature.append(1.0 if greedy else row.temperature)
            top_k.append(row.top_k if row.top_k > 0 and not greedy else NO_TOP_K)
            top_p.append(row.top_p if row.top_p < 1 and not greedy else NO_TOP_P)
            log_min_p.append(math.log(row.min_p) if row.min_p > 0 and not greedy else -math.inf)
        return cls(
            temperature=torch.tensor(temperature, dtype=torch.float32, device=device),
            greedy=torch.tensor([row.temperature == 0 for row in rows], device=device),
            top_k=torch.tensor(top_k, device=device),
            top_p=torch.tensor(top_p, dtype=torch.float32, device=device),
            log_min_p=torch.tensor(log_min_p, dtype=torch.float32, device=device),
            truncates=any(row.truncates for row in rows),
        )


class Drawn(NamedTuple):
    """One token for each row."""

    tokens: Tensor  # [B]
    logprobs: Tensor  # [B], under the scaled, truncated and renormalised distribution
    kept: Tensor | None  # [B, V] bool, what truncation left; None if no row truncates


def draw(logits: Tensor, settings: Settings, uniforms: Tensor) -> Drawn:
    """One token for each row of `logits` [B, V] from `uniforms` [B] in [0, 1)."""
    scaled = logits.float() / settings.temperature[:, None]
    kept = None
    if settings.truncates:
        scaled = truncate(scaled, settings)
        kept = scaled > -torch.inf
    logprobs = scaled.log_softmax(-1)
    tokens = draw_by_inversion(logprobs.exp(), uniforms)
    tokens = torch.where(settings.greedy, logprobs.argmax(-1), tokens)
    drawn = logprobs.gather(1, tokens[:, None])[:, 0]
    return Drawn(tokens, drawn, kept)


def truncate(scaled: Tensor, settings: Settings) -> Tensor:
    """Set logits to -inf in vLLM's order: min-p, then top-k, then top-p of what is left.

    Min-p cuts off tokens less probable than that fraction of the most probable one. Top-p keeps the
    smallest set whose renormalised probability reaches p; the token that crosses p stays. Ties keep
    the lower token id.
    """
    values, order = scaled.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(values.shape[1], device=values.device)
    lowest = values[:, :1] + settings.log_min_p[:, None]
    values = values.masked_fill(values < lowest, -torch.inf)
    values = values.masked_fill(rank >= settings.top_k[:, None], -torch.inf)
    mass = values.softmax(-1)
    mass_before = mass.cumsum(-1) - mass
    values = values.masked_fill(mass_before >= settings.top_p[:, None], -torch.inf)
    return torch.empty_like(scaled).scatter_(1, order, values)
