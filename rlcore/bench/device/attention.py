"""Attention kernels against a reference of their own: float64 scores with an explicit mask, written from what a segment may read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlcore.bench.device.case import CheckError, NotHere, check_close, device_name
from rlcore.learner import attention_cuda
from rlcore.learner.attention import Rules, _by_segment, _plan

HEADS, KEY_HEADS = 8, 2
LIMITS = {torch.float32: 2e-5, torch.bfloat16: 2.5e-2}
"""Largest relative error (norm of the difference / norm of the reference) of outputs and gradients.

bfloat16 rounds to 2^-9 = 0.2% once in each of several products. float32 is asked for with TF32 off.
"""


class Layout(NamedTuple):
    """Segments of a row and whom they continue."""

    lengths: tuple[int, ...]
    parents: tuple[int, ...]


LAYOUTS = {
    "packed": Layout((37, 128, 1, 200, 64), (-1,) * 5),
    "shared": Layout((96, 40, 17, 65, 130, 20, 33), (-1, 0, 0, 0, -1, 4, 4)),
    # a tree of three levels
    "tree": Layout((50, 30, 21, 22, 31), (-1, 0, 1, 1, 0)),
}
FEATURES = {
    "plain": Rules(None, 0.0, None, None),
    "window": Rules(None, 0.0, 48, None),
    "softcap": Rules(0.2, 0.0, None, 20.0),
}


def may_read(layout: Layout, window: int | None) -> Tensor:
    """[T, T] bool: row i reads column j. Itself causally, its ancestors fully, nothing else; a window counts along the sequence."""
    depth: list[int] = []
    readable = torch.eye(len(layout.lengths), dtype=torch.bool)
    """[S, S]: the segment itself, and its ancestors."""
    for segment, parent in enumerate(layout.parents):
        is_root = parent < 0
        depth.append(0 if is_root else depth[parent] + layout.lengths[parent])
        if not is_root:
            readable[segment] |= readable[parent]
    sizes = torch.tensor(layout.lengths)
    owner = torch.arange(len(sizes)).repeat_interleave(sizes)
    position = torch.cat(
        [
            torch.arange(above, above + length)
            for above, length in zip(depth, layout.lengths, strict=True)
        ]
    )
    distance = position[:, None] - position[None, :]
    mask = readable[owner[:, None], owner[None, :]] & (distance >= 0)
    return mask if window is None else mask & (distance < window)


def reference(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, rules: Rules) -> Tensor:
    """softmax(cap(q k^T scale)) v in the inputs' precision: [1, H, T, D] -> [1, T, Hq, D]."""
    repeat = query.shape[1] // key.shape[1]
    keys = key.repeat_interleave(repeat, 1)
    values = value.repeat_interleave(repeat, 1)
    scale = query.shape[-1] ** -0.5 if rules.scaling is None else rules.scaling
    scores = torch.einsum("bhid,bhjd->bhij", query, keys) * scale
    if rules.softcap is not None:
        scores = rules.softcap * torch.tanh(scores / rules.softcap)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
    return torch.einsum("bhij,bhjd->bihd", weights, values)


def compare_kernel(
    kernel: Callable[..., Tensor],
    layout: Layout,
    rules: Rules,
    dtype: torch.dtype,
    *,
    key_heads: int = KEY_HEADS,
    width: int = 64,
    backward: bool = True,
) -> dict[str, Any]:
    """Relative errors of a kernel's output, and of its gradients by query, key and value. Raises `CheckError`."""
    device = device_name()
    generator = torch.Generator().manual_seed(0)
    total = sum(layout.lengths)

    def draw(heads: int) -> Tensor:
        exact = torch.randn(1, heads, total, width, generator=generator, dtype=torch.float64)
        # what the kernel is given, so that rounding of inputs is no error of it
        return exact.to(dtype).double()

    inputs = [draw(HEADS), draw(key_heads), draw(key_heads)]
    pull = torch.randn(1, total, HEADS, width, generator=generator, dtype=torch.float64)
    exact = [value.clone().requires_grad_() for value in inputs]
    expected = reference(*exact, may_read(layout, rules.window), rules)
    tested = [value.to(device, dtype).requires_grad_(backward) for value in inputs]
    out = kernel(*tested, layout.lengths, layout.parents, rules)
    pairs = {"output": (out, expected)}
    if backward:
        pull = pull.to(dtype).double()
        wanted = torch.autograd.grad(expected, exact, pull)
        grads = torch.autograd.grad(out, tested, pull.to(device, dtype))
        for name, got, want in zip(("query", "key", "value"), grads, wanted, strict=True):
            pairs[f"gradient by {name}"] = (got, want)
    return {
        name: check_close(f"relative error of {name}", relative(got, want), LIMITS[dtype])
        for name, (got, want) in pairs.items()
    }


def relative(got: Tensor, want: Tensor) -> float:
    """Norm of the difference over the norm of what is wanted, in float64 on the CPU."""
    want = want.detach().double().cpu()
    difference = got.detach().double().cpu() - want
    return (difference.norm() / want.norm().clamp_min(1e-300)).item()


def by_segment(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    parents: tuple[int, ...],
    rules: Rules,
) -> Tensor:
    """The learner's own way where there is no fused kernel."""
    return _by_segment(query, key, value, _plan(lengths, parents), rules)


def flex_on_cpu(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    parents: tuple[int, ...],
    rules: Rules,
) -> Tensor:
    """FlexAttention uncompiled, forward only: a CPU takes its mask and its score function, but has no backward."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = attention_cuda._compiled
    attention_cuda._compiled = lambda: flex_attention
    try:
        return attention_cuda.flex(query, key, value, lengths, parents, rules)
    finally:
        attention_cuda._compiled = compiled


def flash_is_refused_in_words() -> dict[str, Any]:
    """On a CPU: the arguments reach torch's kernel, and its refusal leads to the way by segments, not to a crash."""
    layout = LAYOUTS["packed"]
    values = [torch.randn(1, heads, sum(layout.lengths), 64).bfloat16() for heads in (8, 2, 2)]
    try:
        attention_cuda.flash(*values, *layout, FEATURES["plain"])
    except (NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
    else:
        raise CheckError("FlashAttention's varlen kernel ran on a CPU, which this case denies")
    raise NotHere(f"FlashAttention needs a CUDA GPU: {reason[:160]}")
