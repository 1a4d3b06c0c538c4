"""Attention over segments side by side in one row, as an attention function of transformers.

Its name is `PACKED`. The segments' lengths and parents (see `rlcore.learner.forest`) are passed as
the keywords `packed_lengths` and `packed_parents` through the model's forward to every attention
layer. Keywords rather than a global, because activation checkpointing calls the layers a second
time in the backward pass. Some older architectures pass no keywords on: for them the layout also
stands in `layout_of_this_forward` while a forward runs, and checkpointing is met with an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

from rlcore.errors import ModelError
from rlcore.learner.attention_cuda import cuda_attention

PACKED = "rlcore_packed"


class Rules(NamedTuple):
    """What an architecture asks of its attention."""

    scaling: float | None
    dropout: float
    window: int | None
    """Keys that a token reads, its own included."""
    softcap: float | None
    sinks: Tensor | None = None
    """[Hq] scores of a key without value that every token reads (GPT-OSS)."""


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
    s_aux: Tensor | None = None,
    packed_lengths: tuple[int, ...] | None = None,
    packed_parents: tuple[int, ...] | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Each segment reads itself causally and its ancestors fully.

    Without parents every segment is a sequence of its own. query [1, Hq, T, D], key and value
    [1, Hkv, T, D] -> [1, T, Hq, D]. On a GPU fused kernels are used where they support this.
    attention_mask: what `packed_mask` returned. The other keywords are those that transformers
    passes to every attention; s_aux are the sinks.
    """
    if packed_lengths is None:
        packed_lengths, packed_parents = _layout(module)
    window = sliding_window
    if attention_mask is not None:
        window = _window(module, attention_mask)
    rules = Rules(scaling, dropout, window, softcap, s_aux)
    parents = packed_parents or (-1,) * len(packed_lengths)
    if query.device.type == "cuda":
        out = cuda_attention(query, key, value, packed_lengths, parents, rules)
        if out is not None:
            return out, None
    return _by_segment(query, key, value, _plan(packed_lengths, parents), rules), None


def _window(module: torch.nn.Module, mask: Tensor) -> int:
    """What `packed_mask` put in place of a mask. Raises `ModelError` for a mask of the model's own."""
    if mask.numel() != 1:
        raise ModelError(
            f"{type(module).__name__} adds a mask of its own to its attention, which the packed layout "
            "does not have"
        )
    return int(mask)


_Layout = tuple[tuple[int, ...], tuple[int, ...] | None]
_current: ContextVar[_Layout | None] = ContextVar("packed layout", default=None)


@contextmanager
def layout_of_this_forward(
    lengths: tuple[int, ...], parents: tuple[int, ...] | None
) -> Iterator[None]:
    """Attention layers that get no keywords read this layout inside."""
    token = _current.set((lengths, parents))
    try:
        yield
    finally:
        _current.reset(token)


def _layout(module: torch.nn.Module) -> _Layout:
    layout = _current.get()
    if layout is None:
        raise ModelError(
            f"{type(module).__name__} got no packed lengths. If the model was called directly, call "
            'model.set_attn_implementation("sdpa") first; in training, its architecture passes no '
            "keywords on, so set model.gradient_checkpointing=false"
        )
    return layout


class _Run(NamedTuple):
    """Neighbouring segments of equal length with the same parent.

    A segment with children is a run of its own.
    """

    length: int
    count: int
    above: tuple[int, ...]
    """The runs that are its ancestors, root first; each has one segment."""


@lru_cache(maxsize=128)
def _plan(lengths: tuple[int, ...], parents: tuple[int, ...]) -> list[_Run]:
    with_children = set(parents)

    def run_key(segment: int) -> tuple[int, int, int]:
        alone = segment if segment in with_children else -1
        return lengths[segment], parents[segment], alone

    runs: list[_Run] = []
    run_of: dict[int, int] = {}
    """Run of each segment that may have children."""
    for (length, parent, _), members in groupby(range(len(lengths)), key=run_key):
        segments = list(members)
        above: tuple[int, ...] = ()
        if parent >= 0:
            parent_run = run_of[parent]
            above = (*runs[parent_run].above, parent_run)
        run_of[segments[0]] = len(runs)
        runs.append(_Run(length, len(segments), above))
    return runs


def _by_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: list[_Run],
    rules: Rules,
) -> Tensor:
    """One call for each run, so that there is no T x T mask.

    Split and cat rather than slices, whose backward would write a full-length zero tensor for
    every call.
    """
    sizes = [run.length * run.count for run in plan]
    queries = query.split(sizes, 2)
    keys = key.split(sizes, 2)
    values = value.split(sizes, 2)
    outputs = []
    above: tuple[int, ...] = ()
    for number, run in enumerate(plan):
        run_query = _per_segment(queries[number], run.length)
        run_key = _per_segment(keys[number], run.length)
        run_value = _per_segment(values[number], run.length)
        if run.above:
            if run.above != above:  # siblings read the same ancestors: concatenated once
                above = run.above
                keys_above = torch.cat([keys[ancestor] for ancestor in above], 2)
                values_above = torch.cat([values[ancestor] for ancestor in above], 2)
            run_key = torch.cat([keys_above.expand(run.count, -1, -1, -1), run_key], 2)
            run_value = torch.cat([values_above.expand(run.count, -1, -1, -1), run_value], 2)
        attended = _causal(run_query, run_key, run_value, rules)
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)[None]


def _per_segment(piece: Tensor, length: int) -> Tensor:
    """[1, heads, count * length, D] -> [count, heads, length, D]."""
    return piece[0].unflatten(1, (-1, length)).transpose(0, 1)


def _causal(query: Tensor, key: Tensor, value: Tensor, rules: Rules) -> Tensor:
    """Causal attention of the last n of m tokens.

    query [B, Hq, n, D], key and value [B, Hkv, m, D] -> [B, Hq, n, D].
    """
    n = query.shape[2]
    m = key.shape[2]
    windowed = rules.window is not None and rules.window < m
    mask = None
    explicit = rules.softcap is not None or rules.sinks is not None
    if n < m or windowed or explicit:
        mask = torch.ones(n, m, dtype=torch.bool, device=query.device).tril(m - n)
        if windowed:
            mask = mask.triu(m - n + 1 - rules.window)
    if explicit:
        return _explicit(query, key, value, mask, rules)
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


def _explicit(query: Tensor, key: Tensor, value: Tensor, near: Tensor, rules: Rules) -> Tensor:
    """Attention whose scores are all in memory, for what no fused kernel of torch does on a CPU.

    Scores softcap * tanh(score / softcap) as in Gemma 2; sinks as in GPT-OSS.
    """
    repeat = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(repeat, 1)
    value = value.repeat_interleave(repeat, 1)
    scaling = query.shape[-1] ** -0.5 if rules.scaling is None else rules.scaling
    scores = query @ key.transpose(2, 3) * scaling
    if rules.softcap is not None:
        scores = rules.softcap * (scores / rules.softcap).tanh()
    scores = scores.masked_fill(~near, float("-inf"))
    if rules.sinks is not None:
        sinks = rules.sinks.to(scores.dtype).view(1, -1, 1, 1)
        column = sinks.expand(len(scores), -1, scores.shape[2], 1)
        scores = torch.cat([scores, column], -1)
    precision = torch.promote_types(torch.float32, scores.dtype)
    probabilities = scores.softmax(-1, dtype=precision).to(value.dtype)
    if rules.sinks is not None:
        probabilities = probabilities[..., :-1]
    return torch.dropout(probabilities, rules.dropout, train=True) @ value


def packed_mask(
    *, local_size: int | None = None, use_vmap: bool = False, **_: Any
) -> Tensor | None:
    """What models get in place of an attention mask: the width of their window, if they have one.

    Some models say it to the mask alone and not to the attention (Qwen2-MoE, PhiMoE).
    Raises `ModelError` for a mask with a rule of its own.
    """
    if use_vmap:
        raise ModelError(
            "this model masks its attention by a rule of its own (texts that read both ways, say), "
            "which rlcore's packed layout does not have"
        )
    # Four dimensions and on the CPU: models look at the shape only, and reading it costs nothing. A constant, so that it can
    # also be read where tensors hold no numbers (`rlcore.plan`).
    return None if local_size is None else torch.tensor([[[[local_size]]]])


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, packed_mask)
