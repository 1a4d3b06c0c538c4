"""The same attention by a GPU's fused kernels.

FlashAttention for plain sequences, FlexAttention for trees and capped scores.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlcore.errors import first_line
from rlcore.learner.forest import ends

if TYPE_CHECKING:
    from rlcore.learner.attention import Rules

log = logging.getLogger(__name__)

_refused: set[str] = set()


def cuda_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    parents: tuple[int, ...],
    rules: Rules,
) -> Tensor | None:
    """query [1, Hq, T, D], key and value [1, Hkv, T, D] -> [1, T, Hq, D].

    None where no kernel supports this on this machine. A kernel that fails once, because there is
    no compiler or no support for the GPU, is not tried again in this process.
    """
    kernels: list[Callable[..., Tensor]] = []
    if rules.dropout == 0 and rules.sinks is None:
        is_plain = rules.softcap is None and max(parents) < 0
        if is_plain and query.dtype in (torch.bfloat16, torch.float16):
            kernels.append(flash)
        kernels.append(flex)
    for kernel in kernels:
        if kernel.__name__ in _refused:
            continue
        try:
            return kernel(query, key, value, lengths, parents, rules)
        except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.cuda.OutOfMemoryError):
                raise
            _refused.add(kernel.__name__)
            warnings.warn(
                f"{kernel.__name__} attention does not work here and is not used: "
                f"{first_line(error)}",
                stacklevel=2,
            )
    return None


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    _: Any,
    rules: Rules,
) -> Tensor:
    """Sequences side by side through FlashAttention's varlen kernel."""
    varlen_attn = _varlen_attn()
    borders = _borders(lengths, query.device)
    longest = max(lengths)
    left_window = -1 if rules.window is None else rules.window - 1
    settings: dict[str, Any] = {"scale": rules.scaling, "window_size": (left_window, 0)}
    queries_per_key = query.shape[1] // key.shape[1]
    if queries_per_key > 1:
        if takes(varlen_attn, "enable_gqa"):
            settings["enable_gqa"] = True
        else:  # torch 2.11
            key = key.repeat_interleave(queries_per_key, 1)
            value = value.repeat_interleave(queries_per_key, 1)
    out = varlen_attn(
        _tokens_first(query),
        _tokens_first(key),
        _tokens_first(value),
        borders,
        borders,
        longest,
        longest,
        **settings,
    )
    return out[None]


@lru_cache(maxsize=1)
def _varlen_attn() -> Callable[..., Tensor]:
    """torch's varlen attention, on FlashAttention 3 where a Hopper GPU and the package `flash_attn_interface` are here.

    Its kernels are torch's to choose: they are switched on for the process. torch before 2.11 has no such switch.
    """
    import torch.nn.attention as attention
    from torch.nn.attention.varlen import varlen_attn

    activate = getattr(attention, "activate_flash_attention_impl", None)
    is_hopper = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
    if activate is None or not is_hopper or find_spec("flash_attn_interface") is None:
        return varlen_attn
    try:
        activate("FA3")
        log.info("attention of the learner: FlashAttention 3")
    except (ImportError, AttributeError, RuntimeError, ValueError) as error:
        warnings.warn(
            f"FlashAttention 3 does not work here and 2 is used: {first_line(error)}",
            stacklevel=2,
        )
    return varlen_attn


@cache
def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether the function has a parameter of this name."""
    return name in inspect.signature(function).parameters


def _tokens_first(tensor: Tensor) -> Tensor:
    """[1, H, T, D] -> [T, H, D]."""
    return tensor[0].transpose(0, 1).contiguous()


def flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    parents: tuple[int, ...],
    rules: Rules,
) -> Tensor:
    """Any forest through FlexAttention, compiled."""
    cap = rules.softcap

    def capped(score: Tensor, *_: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    out = _compiled()(
        query,
        key,
        value,
        score_mod=None if cap is None else capped,
        block_mask=_block_mask(lengths, parents, rules.window, query.device),
        scale=rules.scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2)


def reads(
    lengths: tuple[int, ...],
    parents: tuple[int, ...],
    window: int | None,
    device: torch.device,
) -> Callable[..., Tensor]:
    """The rule of who reads whom, as FlexAttention takes it.

    (batch, head, index of the query, index of the key) -> bool.
    """
    sizes = torch.tensor(lengths, device=device)
    segment_ends = torch.tensor(ends(lengths, parents), device=device)
    segment_depths = torch.tensor(_depths(lengths, parents), device=device)
    segment_starts = sizes.cumsum(0) - sizes
    # One value a token from here on. A window counts positions in the sequence, not in the row.
    end = segment_ends.repeat_interleave(sizes)
    row_index = torch.arange(len(end), device=device)
    offset = (segment_depths - segment_starts).repeat_interleave(sizes)
    position = row_index + offset

    def rule(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        is_read = (key <= query) & (query < end[key])
        if window is None:
            return is_read
        return is_read & (position[query] - position[key] < window)

    return rule


def _depths(lengths: tuple[int, ...], parents: tuple[int, ...]) -> list[int]:
    """Tokens above each segment."""
    depths: list[int] = []
    for parent in parents:
        depth = 0
        if parent >= 0:
            depth = depths[parent] + lengths[parent]
        depths.append(depth)
    return depths


@lru_cache(maxsize=8)
def _block_mask(
    lengths: tuple[int, ...],
    parents: tuple[int, ...],
    window: int | None,
    device: torch.device,
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    total = sum(lengths)
    rule = reads(lengths, parents, window, device)
    return create_block_mask(rule, None, None, total, total, device=device)


@lru_cache(maxsize=8)
def _borders(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
