"""Log-probabilities and entropies from hidden states, holding no more than a tile of logits.

There are two ways to the gradient. `one_pass` takes the loss, and computes gradients while a
token's logits are all there: three matrix products, a few tokens at a time. It needs a loss that is
a sum over tokens. `chunked_logprobs` returns log-probabilities, and computes the logits again in the
backward pass: four products, in tiles of many tokens and few words, which multiply fastest. What
happens between the products is in `rlcore.learner.head`, and for GPUs in `rlcore.learner.head_kernels`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlcore.errors import first_line
from rlcore.learner.head import Head, HeadGradients, RowStats
from rlcore.learner.support import Support

log = logging.getLogger(__name__)

TILE_LOGITS = {"cpu": 20 * 2**20, "cuda": 128 * 2**20}
"""Logits held at a time: 80 MiB in fp32, 138 tokens of a vocabulary of 151,936. On a GPU 512 MiB, 883 tokens.

One pass reads all of the weight and adds to all of its gradient for each tile, which a GPU's memory would be the limit of.
"""
TILE_TOKENS = 4096
"""Tokens of a tile that need not hold the whole vocabulary."""

Loss = Callable[[Tensor, Tensor, slice], Tensor]
"""(logp [n] or [n, M], entropy [n], their places in the N tokens) -> differentiable scalar, a sum over tokens."""


def chunked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    support: Support | None = None,
    tile: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of `target` and entropy of the distribution softmax(z).

    z = cap(hidden @ weight.T + bias) / temperature, where cap(x) is softcap * tanh(x / softcap), or x.
    hidden [N, H], weight [V, H], bias [V] or None, target [N] int64 -> logp [N], entropy [N] in nats;
    of several targets a token, [N, M], logp is [N, M].
    With `support` the softmax is over the kept tokens of each row alone. Results are fp32 (float64 for
    float64 inputs), as are all sums over the vocabulary. Both outputs are exactly differentiable;
    logits are computed again in the backward pass. tile: tokens and words at a time.
    """
    head = _head(hidden, weight, bias, temperature, softcap, support)
    rows = min(TILE_TOKENS, max(1, len(hidden)))
    tile = tile or (rows, _tile_logits(hidden) // rows)
    if target.dim() == 2:
        return _Recompute.apply(head.hidden, head.weight, head.bias, target, head, tile)
    logp, entropy = _Recompute.apply(
        head.hidden, head.weight, head.bias, target[:, None], head, tile
    )
    return logp[:, 0], entropy


def one_pass(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    loss: Loss,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    support: Support | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `chunked_logprobs`, with the sum of `loss` over chunks of tokens as third value.

    Only the third value is differentiable. Its gradient is computed in the forward pass and kept until
    the backward pass, which may come once: [N, H] and [V, H], in fp32.
    """
    head = _head(hidden, weight, bias, temperature, softcap, support)
    rows = chunk or max(64, _tile_logits(hidden) // len(weight) // 16 * 16)
    if target.dim() == 2:
        return _OnePass.apply(head.hidden, head.weight, head.bias, target, head, loss, rows)

    def of_one(logp: Tensor, entropy: Tensor, part: slice) -> Tensor:
        return loss(logp[:, 0], entropy, part)

    logp, entropy, total = _OnePass.apply(
        head.hidden, head.weight, head.bias, target[:, None], head, of_one, rows
    )
    return logp[:, 0], entropy, total


def top_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Ids and log-probabilities [N, k] of the k most probable of the tokens, most probable first.

    Arguments as in `chunked_logprobs`; k is at most the vocabulary.
    """
    head = _head(hidden, weight, bias, temperature, softcap, None)
    ids = torch.empty(len(hidden), k, dtype=torch.int64, device=hidden.device)
    logprobs = torch.empty(len(hidden), k, dtype=head.wide, device=hidden.device)
    rows = max(64, _tile_logits(hidden) // len(weight) // 16 * 16)
    for at, _, z in head.tiles(rows, len(weight)):
        best = z.topk(k, dim=1)
        ids[at] = best.indices
        logprobs[at] = best.values - z.logsumexp(1, keepdim=True)
    return ids, logprobs


def _tile_logits(hidden: Tensor) -> int:
    return TILE_LOGITS.get(hidden.device.type, TILE_LOGITS["cpu"])


def _head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    temperature: float,
    softcap: float | None,
    support: Support | None,
) -> Head:
    """The head with its inputs in one data type: autocast's where it is on, else the weight's."""
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        weight = weight.to(torch.get_autocast_dtype(device))
    # Triton's kernels know neither the tokens that sampling cut off nor float64.
    simple = support is None and weight.dtype != torch.float64
    kind = gpu_head(hidden.device) if device == "cuda" and simple else Head
    return kind(
        hidden.to(weight.dtype),
        weight,
        None if bias is None else bias.to(weight.dtype),
        temperature=temperature,
        softcap=softcap,
        support=support,
    )


@cache
def gpu_head(device: torch.device) -> type[Head]:
    """The head in Triton kernels where they can be compiled and agree with the plain one, else the plain one.

    A line of the log says which.
    """
    try:
        from rlcore.learner.head_kernels import TOLERANCE, KernelHead, difference

        far = difference(device)
    except Exception as error:  # no triton, a card it does not know, no compiler
        log.warning("output head without Triton's kernels: %s", first_line(error))
        return Head
    if not far <= TOLERANCE:
        log.warning("output head without Triton's kernels: they are off by %.2g", far)
        return Head
    log.info("output head: Triton kernels")
    return KernelHead


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        head: Head,
        tile: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        softmax = head.softmax(len(hidden), target.shape[1])
        for rows, columns, z in head.tiles(*tile):
            softmax.add(z, target[rows] - columns.start, rows)
        stats = softmax.stats()
        # Inputs are saved so that autograd notices if one of them is changed in place; outputs because as
        # attributes they would hold this node, which holds them, and nothing would ever be freed.
        ctx.save_for_backward(hidden, weight, bias, target, *stats)
        ctx.head = head
        ctx.tile = tile
        ctx.set_materialize_grads(False)
        return stats.logp, stats.entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logp: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        _hidden, _weight, _bias, target, *saved = ctx.saved_tensors
        stats = RowStats(*saved)
        gradients = HeadGradients(ctx.head, ctx.needs_input_grad)
        if grad_logp is None:
            grad_logp = torch.zeros_like(stats.logp)
        for rows, columns, z in ctx.head.tiles(*ctx.tile):
            dz = ctx.head.pull(
                z,
                target[rows] - columns.start,
                grad_logp[rows],
                None if grad_entropy is None else grad_entropy[rows],
                stats.at(rows),
            )
            gradients.add(rows, columns, dz)
        return *gradients.take(), None, None, None


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        head: Head,
        loss: Loss,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logp = torch.empty(target.shape, dtype=head.wide, device=hidden.device)
        entropy = torch.empty(len(hidden), dtype=head.wide, device=hidden.device)
        total = logp.new_zeros(())
        gradients = HeadGradients(head, ctx.needs_input_grad)
        for rows, columns, z in head.tiles(chunk, len(weight)):
            softmax = head.softmax(len(z), target.shape[1])
            softmax.add(z, target[rows])
            stats = softmax.stats()
            logp[rows] = stats.logp
            entropy[rows] = stats.entropy
            value, grad_logp, grad_entropy = _loss_gradients(
                loss, stats.logp, stats.entropy, rows
            )
            total += value
            dz = head.pull(z, target[rows], grad_logp, grad_entropy, stats)
            gradients.add(rows, columns, dz)
        ctx.grads = gradients.take()
        ctx.mark_non_differentiable(logp, entropy)
        return logp, entropy, total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, _logp: None, _entropy: None, grad: Tensor
    ) -> tuple[Tensor | None, ...]:
        grads = ctx.grads
        ctx.grads = None
        scaled = []
        for value in grads:
            scaled.append(None if value is None else value.mul_(grad.to(value.dtype)))
        return *scaled, None, None, None, None


def _loss_gradients(
    loss: Loss, logp: Tensor, entropy: Tensor, rows: slice
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Value of the loss, and its gradients by log-probability and entropy (None if it reads none)."""
    leaves = [logp.clone().requires_grad_(), entropy.clone().requires_grad_()]
    with torch.enable_grad():
        value = loss(*leaves, rows)
    grad_logp, grad_entropy = torch.autograd.grad(value, leaves, allow_unused=True)
    if grad_logp is None:
        grad_logp = torch.zeros_like(logp)
    return value.detach(), grad_logp, grad_entropy
