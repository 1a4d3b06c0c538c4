"""The output head in tiles of logits: some tokens, some of the vocabulary, in one buffer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rlcore.learner.support import Support

CACHED_LOGITS = {"cpu": 2**19}
"""Logits that elementwise work takes at a time, to stay in a CPU's cache; elsewhere a whole tile."""
LOWEST = -1e30
"""Logit of a token that sampling cut off, and start of a running maximum.

Its probability is exactly 0 next to any real logit. It is finite, so that a tile in which a row has
no kept token gives no NaN; what such a tile adds is multiplied by exp(LOWEST - top) = 0 later.
"""


class Head:
    """Makes tiles of logits z [n, v] in one buffer, and turns them in place into a loss's gradient.

    What is done to each logit are some 15 operations of torch here. On a GPU each of them would read and write
    the whole tile: there `rlcore.learner.head_kernels` has a head that does the same in two kernels.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        temperature: float,
        softcap: float | None,
        support: Support | None,
    ) -> None:
        self.hidden = hidden
        self.weight = weight
        self.bias = bias
        self.temperature = temperature
        self.softcap = softcap
        self.support = support
        self.wide = torch.float64 if weight.dtype == torch.float64 else torch.float32

    def tiles(self, tokens: int, words: int) -> Iterator[tuple[slice, slice, Tensor]]:
        """Tokens, words and logits of one tile after another; the next tile overwrites the last."""
        n = len(self.hidden)
        vocabulary = len(self.weight)
        buffer = self.weight.new_empty(min(tokens, n) * min(words, vocabulary))
        for rows in slices(n, tokens):
            for columns in slices(vocabulary, words):
                height = rows.stop - rows.start
                width = columns.stop - columns.start
                z = buffer[: height * width].view(height, width)
                torch.mm(self.hidden[rows], self.weight[columns].t(), out=z)
                if self.bias is not None:
                    z += self.bias[columns]
                z = self.prepared(z)
                if self.support is not None:
                    z.masked_fill_(self.support.outside(rows, columns), LOWEST)
                yield rows, columns, z

    def prepared(self, products: Tensor) -> Tensor:
        """Logits as `softmax` and `pull` take them, from the products of hidden states and words."""
        return self.scaled(products.to(self.wide))

    def softmax(self, n: int, targets: int) -> OnlineSoftmax:
        """Sums over the vocabulary of n rows; `targets` log-probabilities of each are asked for."""
        return OnlineSoftmax(self, n, targets)

    def scaled(self, z: Tensor) -> Tensor:
        """z, in place, capped and divided by the temperature."""
        if self.softcap is None and self.temperature == 1:
            return z
        for _, x in cached_pieces(z):
            if self.softcap is not None:
                x.div_(self.softcap).tanh_().mul_(self.softcap)
            x.div_(self.temperature)
        return z

    def pull(
        self,
        z: Tensor,
        target: Tensor,
        grad_logp: Tensor,
        grad_entropy: Tensor | None,
        stats: RowStats,
    ) -> Tensor:
        """z becomes d loss / d logits.

        A log-probability has the gradient onehot - p, an entropy -p (log p + entropy). target and
        grad_logp [n, M], the target counts from the tile's first word; where it is none of the
        tile's, the onehot is 0. Logits that were cut off have p = 0 and so a gradient of 0.
        """
        pulled = grad_logp.sum(1)
        in_tile = (target >= 0) & (target < z.shape[1])
        column = target.clamp(0, z.shape[1] - 1)
        onehot = torch.where(in_tile, grad_logp, 0)
        for rows, x in cached_pieces(z):
            slope = self._softcap_slope(x)
            x.sub_(stats.log_total[rows, None])
            if grad_entropy is None:
                x.exp_().mul_(-pulled[rows, None])
            else:
                p = x.exp()
                x.add_(stats.entropy[rows, None])
                x.mul_(grad_entropy[rows, None])
                x.add_(pulled[rows, None])
                x.mul_(p).neg_()
            x.scatter_add_(1, column[rows], onehot[rows])
            if slope is not None:
                x.mul_(slope)
            if self.temperature != 1:
                x.div_(self.temperature)
        return z

    def _softcap_slope(self, x: Tensor) -> Tensor | None:
        """d cap(y) / d y = 1 - tanh(y / c)^2, from the capped and scaled logits x = cap(y) / temperature."""
        if self.softcap is None:
            return None
        tanh = x * (self.temperature / self.softcap)
        slope = 1 - tanh.square()
        if self.support is not None:
            slope.clamp_(min=0)  # -inf where a logit was cut off
        return slope


class RowStats(NamedTuple):
    """Softmax statistics of each row of logits, [n] each."""

    logp: Tensor
    """[n, M], of each of the row's M targets."""
    entropy: Tensor
    log_total: Tensor
    """Log of the partition sum."""

    def at(self, rows: slice) -> RowStats:
        return RowStats(self.logp[rows], self.entropy[rows], self.log_total[rows])


class OnlineSoftmax:
    """The softmax of n rows of logits that arrive in tiles.

    Sums are relative to the largest logit so far, `top`; when it grows by d, they are multiplied by
    exp(-d), and the sum of x exp(x), whose x are relative to `top` too, is shifted as well.
    """

    def __init__(self, head: Head, n: int, targets: int) -> None:
        """targets: how many log-probabilities of each row are asked for."""
        self._head = head
        self._top = torch.full((n,), LOWEST, dtype=head.wide, device=head.hidden.device)
        self._total = torch.zeros_like(self._top)  # sum of exp(x)
        self._weighted = torch.zeros_like(self._top)  # sum of x exp(x)
        self._picked = self._top.new_zeros(n, targets)  # logits of the targets

    def add(self, z: Tensor, target: Tensor, at: slice = slice(None)) -> None:
        """Logits [n, v] of the rows `at`; target [n, M] counts from the tile's first word."""
        in_tile = (target >= 0) & (target < z.shape[1])
        column = target.clamp(0, z.shape[1] - 1)
        self._picked[at] += torch.where(in_tile, self._of(z, column), 0)
        self._sum(z, self._top[at], self._total[at], self._weighted[at])

    def _of(self, z: Tensor, column: Tensor) -> Tensor:
        """The logits [n, M] at the columns [n, M]."""
        return z.gather(1, column)

    def _sum(self, z: Tensor, top: Tensor, total: Tensor, weighted: Tensor) -> None:
        """Take the tile into the sums of its rows, [n] each, in place."""
        for rows, x in cached_pieces(z):
            new_top = torch.maximum(top[rows], x.amax(1))
            shift = top[rows] - new_top
            decay = shift.exp()
            x = x - new_top[:, None]
            p = x.exp()
            weighted[rows] = decay * (weighted[rows] + shift * total[rows]) + x.mul_(p).sum(1)
            total[rows] = decay * total[rows] + p.sum(1)
            top[rows] = new_top

    def stats(self) -> RowStats:
        log_total = self._total.log()
        return RowStats(
            logp=self._picked - self._top[:, None] - log_total[:, None],
            entropy=log_total - self._weighted / self._total,
            log_total=self._top + log_total,
        )


class HeadGradients:
    """Gradients of hidden states, weight and bias where they are asked for, summed over tiles in fp32."""

    def __init__(self, head: Head, needed: tuple[bool, ...]) -> None:
        self._head = head
        inputs = (head.hidden, head.weight, head.bias)
        self._sums: list[Tensor | None] = []
        for value, need in zip(inputs, needed, strict=False):
            if need:
                total = torch.zeros(value.shape, dtype=head.wide, device=value.device)
                self._sums.append(total)
            else:
                self._sums.append(None)

    def add(self, rows: slice, columns: slice, dz: Tensor) -> None:
        """Add the gradients of one tile, whose gradient by the logits is `dz`."""
        hidden, weight, bias = self._sums
        if bias is not None:
            bias[columns] += dz.sum(0, dtype=self._head.wide)
        dz = dz.to(self._head.weight.dtype)
        if hidden is not None:
            _add_product(hidden[rows], dz, self._head.weight[columns])
        if weight is not None:
            _add_product(weight[columns], dz.t(), self._head.hidden[rows])

    def take(self) -> tuple[Tensor | None, ...]:
        """The sums, in the data types of the inputs."""
        inputs = (self._head.hidden, self._head.weight, self._head.bias)
        taken = []
        for total, value in zip(self._sums, inputs, strict=True):
            taken.append(None if total is None else total.to(value.dtype))
        return tuple(taken)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b; a product in half precision is short-lived and small."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
        return
    for rows in slices(len(total), 2**14):
        total[rows] += a[rows] @ b


def slices(n: int, size: int) -> Iterator[slice]:
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def cached_pieces(z: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Pieces of a tile, some rows each, that are small enough for the cache."""
    logits = CACHED_LOGITS.get(z.device.type, z.numel())
    width = max(1, z.shape[1])
    for rows in slices(len(z), max(1, logits // width)):
        yield rows, z[rows]
