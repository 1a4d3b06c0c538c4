"""Log-probabilities and entropies from hidden states, holding no more than a tile of logits: some tokens, some of the vocabulary.

Two ways to the gradient. `one_pass` is given the loss, and makes gradients while a token's logits are all there: three matrix
products, a few tokens at a time. It needs a loss that is a sum over tokens. `chunked_logprobs` gives log-probabilities to
anything, and makes the logits again in the backward pass: four products, in tiles of many tokens and few words, which multiply
fastest.
A fused kernel for GPUs (logits, loss and gradients without a round trip to memory) would take the place of the loops here, behind
the same two functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE_LOGITS = 20 * 2**20
"""Logits held at a time: 80 MiB in fp32, 138 tokens of a vocabulary of 151,936."""
TILE_TOKENS = 4096
"""Tokens of a tile that need not hold the whole vocabulary."""
CACHED = {"cpu": 2**19}
"""Logits that elementwise work takes at a time, so that they stay in a CPU's cache; elsewhere the whole tile."""

Loss = Callable[[Tensor, Tensor, slice], Tensor]
"""(logp [n], entropy [n], their places in the N tokens) -> scalar, differentiable in both; a sum over tokens."""


def chunked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    tile: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probability of `target` and entropy of the distribution softmax(z), z = cap(hidden @ weight.T + bias) / temperature.

    hidden [N, H], weight [V, H], bias [V] or None, target [N] int64 -> logp [N], entropy [N] in nats; cap(x) is
    softcap * tanh(x / softcap), or x. Results are fp32 (float64 for float64 inputs), as are all sums over the vocabulary.
    Both outputs are exactly differentiable; logits are made again in the backward pass. tile: tokens and words at a time.
    """
    head = _Head(*_cast(hidden, weight, bias), temperature, softcap)
    rows = min(TILE_TOKENS, max(1, len(hidden)))
    return _Recompute.apply(
        head.hidden, head.weight, head.bias, target, head, tile or (rows, TILE_LOGITS // rows)
    )


def one_pass(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    loss: Loss,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `chunked_logprobs`, and as third value the sum of `loss` over chunks of tokens, the only one that can be differentiated.

    Its gradient is made in the forward pass and kept until the backward pass, which may come once: [N, H] and [V, H], in fp32.
    """
    head = _Head(*_cast(hidden, weight, bias), temperature, softcap)
    rows = chunk or max(64, TILE_LOGITS // len(weight) // 16 * 16)
    return _OnePass.apply(head.hidden, head.weight, head.bias, target, head, loss, rows)


def _cast(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    if torch.is_autocast_enabled(hidden.device.type):
        weight = weight.to(torch.get_autocast_dtype(hidden.device.type))
    return hidden.to(weight.dtype), weight, None if bias is None else bias.to(weight.dtype)


class _Head:
    """Makes tiles of logits z [n, v] in one buffer, and turns them in place into the gradient of a loss by them."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        temperature: float,
        softcap: float | None,
    ) -> None:
        self.hidden, self.weight, self.bias = hidden, weight, bias
        self.temperature, self.softcap = temperature, softcap
        self.wide = torch.float64 if weight.dtype == torch.float64 else torch.float32

    def tiles(self, tokens: int, words: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tokens, words and logits of one tile after another; the next overwrites it."""
        n, vocabulary = len(self.hidden), len(self.weight)
        buffer = self.weight.new_empty(min(tokens, n) * min(words, vocabulary))
        for rows in _slices(n, tokens):
            for columns in _slices(vocabulary, words):
                shape = rows.stop - rows.start, columns.stop - columns.start
                z = buffer[: shape[0] * shape[1]].view(shape)
                torch.mm(self.hidden[rows], self.weight[columns].t(), out=z)
                if self.bias is not None:
                    z += self.bias[columns]
                yield rows, columns, self._scaled(z.to(self.wide))

    def _scaled(self, z: Tensor) -> Tensor:
        if self.softcap is not None or self.temperature != 1:
            for _, x in _cached(z):
                if self.softcap is not None:
                    x.div_(self.softcap).tanh_().mul_(self.softcap)
                x.div_(self.temperature)
        return z

    def pull(
        self, z: Tensor, target: Tensor, grad_logp: Tensor, grad_entropy: Tensor | None, soft: _Rows
    ) -> Tensor:
        """z becomes d loss / d logits: a log-probability gives onehot - p, an entropy -p (log p + entropy).

        target [n] counts from the tile's first word; where it is none of the tile's, the onehot is 0.
        """
        here = (target >= 0) & (target < z.shape[1])
        place, hit = target.clamp(0, z.shape[1] - 1), torch.where(here, grad_logp, 0)
        for rows, x in _cached(z):
            slope = (
                None
                if self.softcap is None
                else 1 - (x * (self.temperature / self.softcap)).square()
            )
            x.sub_(soft.log_total[rows, None])
            if grad_entropy is None:
                x.exp_().mul_(-grad_logp[rows, None])
            else:
                p = x.exp()
                x.add_(soft.entropy[rows, None]).mul_(grad_entropy[rows, None]).add_(
                    grad_logp[rows, None]
                ).mul_(p).neg_()
            x.scatter_add_(1, place[rows, None], hit[rows, None])
            if slope is not None:
                x.mul_(slope)
            if self.temperature != 1:
                x.div_(self.temperature)
        return z


class _Rows(NamedTuple):
    """What the softmax of each row of logits comes to, [n] each."""

    logp: Tensor
    entropy: Tensor
    log_total: Tensor
    """Log of the partition sum."""

    def at(self, rows: slice) -> _Rows:
        return _Rows(*(value[rows] for value in self))


class _Softmax:
    """The softmax of n rows of logits that arrive in tiles."""

    def __init__(self, n: int, like: Tensor, wide: torch.dtype) -> None:
        self._top = torch.full((n,), -1e30, dtype=wide, device=like.device)
        self._total, self._weighted, self._picked = (torch.zeros_like(self._top) for _ in range(3))

    def add(self, z: Tensor, target: Tensor, at: slice = slice(None)) -> None:
        """Logits [n, v] of the rows `at`; target [n] counts from the tile's first word."""
        top, total, weighted, picked = (
            x[at] for x in (self._top, self._total, self._weighted, self._picked)
        )
        here = (target >= 0) & (target < z.shape[1])
        picked += torch.where(here, z.gather(1, target.clamp(0, z.shape[1] - 1)[:, None])[:, 0], 0)
        for rows, x in _cached(z):
            new = torch.maximum(top[rows], x.amax(1))
            step = top[rows] - new
            x = x - new[:, None]
            p = x.exp()
            weighted[rows] = step.exp() * (weighted[rows] + step * total[rows]) + x.mul_(p).sum(1)
            total[rows] = step.exp() * total[rows] + p.sum(1)
            top[rows] = new

    def result(self) -> _Rows:
        log = self._total.log()
        return _Rows(
            self._picked - self._top - log, log - self._weighted / self._total, self._top + log
        )


class _Gradients:
    """Gradients of hidden states, and of weight and bias where they are asked for, summed over tiles in fp32."""

    def __init__(self, head: _Head, needed: tuple[bool, ...]) -> None:
        self._head = head
        given = zip((head.hidden, head.weight, head.bias), needed, strict=False)
        self._sums = [
            torch.zeros(x.shape, dtype=head.wide, device=x.device) if need else None
            for x, need in given
        ]

    def add(self, rows: slice, columns: slice, dz: Tensor) -> None:
        hidden, weight, bias = self._sums
        if bias is not None:
            bias[columns] += dz.sum(0)
        dz = dz.to(self._head.weight.dtype)
        if hidden is not None:
            _add_product(hidden[rows], dz, self._head.weight[columns])
        if weight is not None:
            _add_product(weight[columns], dz.t(), self._head.hidden[rows])

    def take(self) -> tuple[Tensor | None, ...]:
        given = (self._head.hidden, self._head.weight, self._head.bias)
        return tuple(
            None if total is None else total.to(x.dtype)
            for total, x in zip(self._sums, given, strict=True)
        )


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b; a product in half precision is short-lived and small."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
        return
    for rows in _slices(len(total), 2**14):
        total[rows] += a[rows] @ b


def _slices(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _cached(z: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for rows in _slices(len(z), max(1, CACHED.get(z.device.type, z.numel()) // max(1, z.shape[1]))):
        yield rows, z[rows]


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        head: _Head,
        tile: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        soft = _Softmax(len(hidden), hidden, head.wide)
        for rows, columns, z in head.tiles(*tile):
            soft.add(z, target[rows] - columns.start, rows)
        ctx.save_for_backward(
            hidden, weight, bias, target
        )  # so that autograd notices if one is changed in place
        ctx.head, ctx.tile, ctx.soft = head, tile, soft.result()
        ctx.set_materialize_grads(False)
        return ctx.soft.logp, ctx.soft.entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_logp: Tensor | None, grad_entropy: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        *_, target = ctx.saved_tensors
        gradients = _Gradients(ctx.head, ctx.needs_input_grad)
        if grad_logp is None:
            grad_logp = torch.zeros_like(ctx.soft.log_total)
        for rows, columns, z in ctx.head.tiles(*ctx.tile):
            pull = None if grad_entropy is None else grad_entropy[rows]
            dz = ctx.head.pull(
                z, target[rows] - columns.start, grad_logp[rows], pull, ctx.soft.at(rows)
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
        head: _Head,
        loss: Loss,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        logp, entropy = (
            torch.empty(len(hidden), dtype=head.wide, device=hidden.device) for _ in range(2)
        )
        total = logp.new_zeros(())
        gradients = _Gradients(head, ctx.needs_input_grad)
        for rows, columns, z in head.tiles(chunk, len(weight)):
            softmax = _Softmax(len(z), z, head.wide)
            softmax.add(z, target[rows])
            soft = softmax.result()
            logp[rows], entropy[rows] = soft.logp, soft.entropy
            leaves = [value.clone().requires_grad_() for value in (soft.logp, soft.entropy)]
            with torch.enable_grad():
                value = loss(*leaves, rows)
            grad_logp, grad_entropy = torch.autograd.grad(value, leaves, allow_unused=True)
            total += value.detach()
            if grad_logp is None:
                grad_logp = torch.zeros_like(leaves[0])
            gradients.add(rows, columns, head.pull(z, target[rows], grad_logp, grad_entropy, soft))
        ctx.grads = gradients.take()
        ctx.mark_non_differentiable(logp, entropy)
        return logp, entropy, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _logp: None, _entropy: None, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads, ctx.grads = ctx.grads, None
        return (
            *(value if value is None else value.mul_(grad.to(value.dtype)) for value in grads),
            None,
            None,
            None,
            None,
        )
