"""The output head's work on each logit in two Triton kernels: sums over the vocabulary, and the gradient in place.

The products with hidden states and words stay torch's. A tile of logits is read once for the sums and
once for the gradient, which overwrites it, in the data type of the product: 6 bytes of memory traffic a
logit in bfloat16, where the operations of `rlcore.learner.head` have some 70. Arithmetic is in float32.

Importing this module needs the package triton, which torch for CUDA brings along. With
TRITON_INTERPRET=1 the kernels run on a CPU, slowly: that is how they are tested without a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlcore.learner.head import Head, OnlineSoftmax, RowStats

BLOCK = 4096
"""Logits of a row that one program has in its registers."""
WARPS = 8
TOLERANCE = 1e-2
"""Largest relative difference to the plain head in bfloat16, whose rounding is 0.4%."""


class KernelHead(Head):
    """As `Head`, of logits in the data type of the product, which its softmax and `pull` scale as they read them.

    Of support, which masks scaled logits, and of float64 it has none: those take the plain head.
    """

    def prepared(self, products: Tensor) -> Tensor:
        return products

    def softmax(self, n: int, targets: int) -> OnlineSoftmax:
        return _KernelSoftmax(self, n, targets)

    def pull(
        self,
        z: Tensor,
        target: Tensor,
        grad_logp: Tensor,
        grad_entropy: Tensor | None,
        stats: RowStats,
    ) -> Tensor:
        rows, width = z.shape
        if z.numel():
            _pull[(rows, triton.cdiv(width, BLOCK))](
                z,
                target.contiguous(),
                grad_logp.contiguous(),
                grad_logp.sum(1),
                stats.log_total,
                stats.entropy,
                stats.entropy if grad_entropy is None else grad_entropy.contiguous(),
                width,
                target.shape[1],
                HAS_ENTROPY=grad_entropy is not None,
                **self.scale(),
            )
        return z

    def scale(self) -> dict[str, Any]:
        """Arguments of both kernels that say how logits follow from products."""
        return {
            "temperature": self.temperature,
            "softcap": self.softcap or 0.0,
            "CAPPED": self.softcap is not None,
            "BLOCK": BLOCK,
            "num_warps": WARPS,
        }


class _KernelSoftmax(OnlineSoftmax):
    _head: KernelHead

    def _of(self, z: Tensor, column: Tensor) -> Tensor:
        return self._head.scaled(z.gather(1, column).to(self._head.wide))

    def _sum(self, z: Tensor, top: Tensor, total: Tensor, weighted: Tensor) -> None:
        rows, width = z.shape
        if z.numel():
            _sums[(rows,)](z, top, total, weighted, width, **self._head.scale())


@triton.jit
def _tanh(x) -> tl.tensor:
    # Triton's own is of CUDA's library alone. The error, 1e-7, is that of float32 at 1.
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _sums(
    z_ptr,
    top_ptr,
    total_ptr,
    weighted_ptr,
    width,
    temperature,
    softcap,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """`OnlineSoftmax._sum`; a program has one row."""
    row = tl.program_id(0).to(tl.int64)
    top = tl.load(top_ptr + row)
    total = tl.load(total_ptr + row)
    weighted = tl.load(weighted_ptr + row)
    for start in range(0, width, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < width
        x = tl.load(z_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        if CAPPED:
            x = softcap * _tanh(x / softcap)
        x = tl.where(inside, x / temperature, float("-inf"))
        new_top = tl.maximum(top, tl.max(x, 0))
        shift = top - new_top
        decay = tl.exp(shift)
        x -= new_top
        p = tl.exp(x)
        weighted = decay * (weighted + shift * total)
        weighted += tl.sum(tl.where(inside, x * p, 0.0), 0)
        total = decay * total + tl.sum(p, 0)
        top = new_top
    tl.store(top_ptr + row, top)
    tl.store(total_ptr + row, total)
    tl.store(weighted_ptr + row, weighted)


@triton.jit
def _pull(
    z_ptr,
    target_ptr,
    grad_logp_ptr,
    pulled_ptr,
    log_total_ptr,
    entropy_ptr,
    grad_entropy_ptr,
    width,
    targets,
    temperature,
    softcap,
    HAS_ENTROPY: tl.constexpr,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """`Head.pull`; a program has a block of one row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    place = z_ptr + row * width + columns
    x = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    if CAPPED:
        tanh = _tanh(x / softcap)
        x = softcap * tanh
    log_p = x / temperature - tl.load(log_total_ptr + row)
    p = tl.exp(log_p)
    slope = tl.load(pulled_ptr + row)
    if HAS_ENTROPY:
        slope += tl.load(grad_entropy_ptr + row) * (log_p + tl.load(entropy_ptr + row))
    gradient = -p * slope
    for k in range(0, targets):
        target = tl.load(target_ptr + row * targets + k)
        grad_logp = tl.load(grad_logp_ptr + row * targets + k)
        gradient += tl.where(columns == target, grad_logp, 0.0)
    if CAPPED:
        gradient *= 1 - tanh * tanh
    tl.store(place, (gradient / temperature).to(z_ptr.dtype.element_ty), mask=inside)


def difference(device: torch.device) -> float:
    """Largest relative difference between this head and the plain one, on a small tile of random logits in bfloat16."""
    results = []
    for kind in (Head, KernelHead):
        random = torch.Generator().manual_seed(0)
        hidden = torch.randn(4, 16, generator=random).to(device, torch.bfloat16)
        weight = torch.randn(700, 16, generator=random).to(device, torch.bfloat16)
        target = torch.randint(700, (4, 2), generator=random).to(device)
        grad_logp = torch.randn(4, 2, generator=random).to(device)
        grad_entropy = torch.randn(4, generator=random).to(device)
        head = kind(hidden, weight, None, temperature=0.7, softcap=10.0, support=None)
        _, _, z = next(head.tiles(4, 700))
        softmax = head.softmax(4, 2)
        softmax.add(z, target)
        stats = softmax.stats()
        gradient = head.pull(z, target, grad_logp, grad_entropy, stats)
        results.append([*stats, gradient.float()])
    far = [(a - b).norm() / a.norm() for a, b in zip(*results, strict=True)]
    return float(torch.stack(far).max())
