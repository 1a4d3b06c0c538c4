"""The same attention by a GPU's fused kernels: FlashAttention for plain sequences, FlexAttention for trees and capped scores."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlcore.errors import first_line
from rlcore.learner.forest import ends

if TYPE_CHECKING:
    from rlcore.learner.attention import Rules

_refused: set[str] = set()


def cuda_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    parents: tuple[int, ...],
    rules: Rules,
) -> Tensor | None:
    """query [1, Hq, T, D], key and value [1, Hkv, T, D] -> [1, T, Hq, D]; None where no kernel can do it on this machine.

    A kernel that fails once, for want of a compiler or of support for the card, is not tried again in this process.
    """
    ways: list[Callable[..., Tensor]] = []
    if rules.dropout == 0:
        plain = rules.softcap is None and max(parents) < 0
        ways = [flash, flex] if plain and query.dtype in (torch.bfloat16, torch.float16) else [flex]
    for way in ways:
        if way.__name__ in _refused:
            continue
        try:
            return way(query, key, value, lengths, parents, rules)
        except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            _refused.add(way.__name__)
            warnings.warn(
                f"{way.__name__} attention does not work here and is left out: {first_line(error)}",
                stacklevel=2,
            )
    return None


def flash(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], _: Any, rules: Rules
) -> Tensor:
    """Sequences end to end through FlashAttention's varlen kernel."""
    from torch.nn.attention.varlen import varlen_attn

    borders, longest = _borders(lengths, query.device), max(lengths)
    q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))  # [T, H, D]
    window = (-1 if rules.window is None else rules.window - 1, 0)
    gqa = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
    return varlen_attn(
        q, k, v, borders, borders, longest, longest, scale=rules.scaling, window_size=window, **gqa
    )[None]


def flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    parents: tuple[int, ...],
    rules: Rules,
) -> Tensor:
    """Any forest through FlexAttention, compiled."""
    cap, score = rules.softcap, None
    if cap is not None:

        def score(s: Tensor, *_: Tensor) -> Tensor:
            return cap * torch.tanh(s / cap)

    out = _compiled()(
        query,
        key,
        value,
        score_mod=score,
        block_mask=_block_mask(lengths, parents, rules.window, query.device),
        scale=rules.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2)


def reads(
    lengths: tuple[int, ...], parents: tuple[int, ...], window: int | None, device: torch.device
) -> Callable[..., Tensor]:
    """The rule of who reads whom, as FlexAttention takes it: (batch, head, query place, key place) -> bool."""
    sizes = torch.tensor(lengths, device=device)
    until = torch.tensor(ends(lengths, parents), device=device).repeat_interleave(sizes)
    depth = torch.tensor(_depths(lengths, parents), device=device).repeat_interleave(sizes)
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    position = torch.arange(len(until), device=device) - starts + depth

    def rule(_batch: Tensor, _head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (k <= q) & (q < until[k])
        return seen if window is None else seen & (position[q] - position[k] < window)

    return rule


def _depths(lengths: tuple[int, ...], parents: tuple[int, ...]) -> list[int]:
    """Tokens above each segment."""
    depths: list[int] = []
    for parent in parents:
        depths.append(0 if parent < 0 else depths[parent] + lengths[parent])
    return depths


@lru_cache(maxsize=8)
def _block_mask(
    lengths: tuple[int, ...], parents: tuple[int, ...], window: int | None, device: torch.device
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    total = sum(lengths)
    return create_block_mask(
        reads(lengths, parents, window, device), None, None, total, total, device=device
    )


@lru_cache(maxsize=8)
def _borders(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
