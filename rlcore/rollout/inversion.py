"""Drawing tokens by inverting the cumulative distribution: one uniform number for each row. [B] rows, [V] vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCK = 256
"""Tokens whose probabilities are added before anything is accumulated: sums are cheap, running sums are not."""


def draw_by_inversion(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The token [B] at which the running sum of `probabilities` [B, V] passes `uniforms` [B] in [0, 1).

    Rows need not sum to exactly one, and need one entry above zero. A token of probability zero is never drawn. First a block
    of tokens is found, then the token in it; running sums are float64.
    """
    vocabulary = probabilities.shape[-1]
    padded = pad(probabilities, (0, -vocabulary % _BLOCK))
    blocks = padded.view(len(padded), -1, _BLOCK)
    masses = blocks.sum(-1).double()
    block, rest = _find(masses, uniforms.double())
    rows = torch.arange(len(padded), device=padded.device)
    token, _ = _find(blocks[rows, block].double(), rest)
    return (block * _BLOCK + token).clamp(max=vocabulary - 1)


def _find(masses: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """The entry in which a uniform number lies, [B], and how far inside it, [B] in [0, 1). `masses` is [B, N]."""
    cumulative = masses.cumsum(-1)
    total = cumulative[:, -1]
    # The target is strictly below the total, so that the first sum above it exists and belongs to an
    # entry above zero.
    below_total = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(uniforms * total, below_total)[:, None]
    # A row that is not a number has no such sum, and gets its last entry.
    entry = torch.searchsorted(cumulative, target, right=True).clamp(max=masses.shape[-1] - 1)
    mass = masses.gather(1, entry)
    before = cumulative.gather(1, entry) - mass
    inside = ((target - before) / mass).clamp(0, 1)
    return entry[:, 0], inside[:, 0]
