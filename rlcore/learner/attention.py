"""Attention over segments laid end to end in one row, as an attention function of transformers (name `PACKED`).

The segments' lengths and parents (see `rlcore.learner.forest`) travel as the keywords `packed_lengths` and `packed_parents`
through the model's forward down to every attention layer. Keywords rather than a global, because activation checkpointing calls
the layers a second time in the backward pass.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from rlcore.errors import ModelError
from rlcore.learner.attention_cuda import cuda_attention

PACKED = "rlcore_packed"


class Rules(NamedTuple):
    """What an architecture asks of its attention."""

    scaling: float | None
    dropout: float
    window: int | None
    """Keys a token reads, its own among them."""
    softcap: float | None


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    packed_lengths: tuple[int, ...] | None = None,
    packed_parents: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Each segment reads itself causally and its ancestors fully; without parents it is a sequence of its own.

    query [1, Hq, T, D], key and value [1, Hkv, T, D] -> [1, T, Hq, D]. A GPU's fused kernels are taken where they can do it.
    """
    if packed_lengths is None:
        raise ModelError(
            f"{type(module).__name__} got no packed lengths: either the model does not pass keywords on to its attention, which "
            'rlcore needs, or it was called directly (then call model.set_attn_implementation("sdpa") first)'
        )
    rules = Rules(scaling, dropout, sliding_window, softcap)
    parents = packed_parents or (-1,) * len(packed_lengths)
    if query.device.type == "cuda":
        out = cuda_attention(query, key, value, packed_lengths, parents, rules)
        if out is not None:
            return out, None
    return _by_segment(query, key, value, _plan(packed_lengths, parents), rules), None


class _Run(NamedTuple):
    """Neighbouring segments of one length and one parent, without children unless it is a single one."""

    length: int
    count: int
    above: tuple[int, ...]  # the runs, of one segment each, that are its ancestors, root first


@lru_cache(maxsize=128)
def _plan(lengths: tuple[int, ...], parents: tuple[int, ...]) -> list[_Run]:
    inner = set(parents)
    runs: list[_Run] = []
    run_of: dict[int, int] = {}
    alike = groupby(
        range(len(lengths)), key=lambda s: (lengths[s], parents[s], s if s in inner else -1)
    )
    for (length, parent, _), members in alike:
        segments = list(members)
        above = () if parent < 0 else (*runs[run_of[parent]].above, run_of[parent])
        run_of[segments[0]] = len(runs)
        runs.append(_Run(length, len(segments), above))
    return runs


def _by_segment(
    query: Tensor, key: Tensor, value: Tensor, plan: list[_Run], rules: Rules
) -> Tensor:
    """One call for each run, so that there is no T x T mask. Split and cat rather than slices, whose backward would write a
    full-length zero tensor for every call."""
    sizes = [run.length * run.count for run in plan]
    keys, values = key.split(sizes, 2), value.split(sizes, 2)
    outputs = []
    above: tuple[int, ...] = ()
    for run, q, k, v in zip(plan, query.split(sizes, 2), keys, values, strict=True):
        q, k, v = (
            piece[0].unflatten(1, (-1, run.length)).transpose(0, 1) for piece in (q, k, v)
        )  # [count, heads, length, D]
        if run.above:
            if run.above != above:
                above = run.above
                before = tuple(
                    torch.cat([pieces[i] for i in above], 2) for pieces in (keys, values)
                )
            k, v = (
                torch.cat([old.expand(run.count, -1, -1, -1), new], 2)
                for old, new in zip(before, (k, v), strict=True)
            )
        outputs.append(_causal(q, k, v, rules).transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def _causal(query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
    """query [B, Hq, n, D] is the last n of the m tokens of key and value [B, Hkv, m, D], and reads none after its own."""
    n, m = query.shape[2], key.shape[2]
    windowed = rules.window is not None and rules.window < m
    mask = None
    if n < m or windowed or rules.softcap is not None:
        mask = torch.ones(n, m, dtype=torch.bool, device=query.device).tril(m - n)
        if windowed:
            mask = mask.triu(m - n + 1 - rules.window)
    if rules.softcap is not None:
        return _capped(query, key, value, mask, rules)
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=rules.scaling,
        dropout_p=rules.dropout,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _capped(query: Tensor, key: Tensor, value: Tensor, near: Tensor, rules: Rules) -> Tensor:
    """Attention with scores softcap * tanh(score / softcap), as Gemma 2; no fused kernel of torch does this on CPU."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    scores = (
        query
        @ key.transpose(2, 3)
        * (query.shape[-1] ** -0.5 if rules.scaling is None else rules.scaling)
    )
    scores = (rules.softcap * (scores / rules.softcap).tanh()).masked_fill(~near, float("-inf"))
    shares = scores.softmax(-1, dtype=torch.promote_types(torch.float32, scores.dtype)).to(
        value.dtype
    )
    return torch.dropout(shares, rules.dropout, train=True) @ value


AttentionInterface.register(PACKED, packed_attention)
