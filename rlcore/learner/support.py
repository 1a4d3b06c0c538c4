"""Kept tokens of truncated sampling: what top-k, top-p or min-p left of the vocabulary at each token.

The engine draws from the renormalised distribution over these tokens, so the learner computes its
log-softmax over the same ones; the ratio of the two is then exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlcore.errors import LearnerError
from rlcore.types import Sample


class Support(NamedTuple):
    """Kept token ids of N trained tokens, one list after the other (K ids in all)."""

    token_ids: Tensor  # [K] int64
    rows: Tensor  # [K] int64, 0..N-1: the trained token that each id belongs to
    truncated: Tensor  # [N] bool; False: the whole vocabulary is kept and no id is listed
    starts: tuple[int, ...]  # [N + 1], where each token's ids begin in `token_ids`

    def to(self, device: torch.device) -> Support:
        return self._replace(
            token_ids=self.token_ids.to(device),
            rows=self.rows.to(device),
            truncated=self.truncated.to(device),
        )

    def outside(self, rows: slice, columns: slice) -> Tensor:
        """[n, v] bool: which logits of this tile were cut off. Needs no synchronisation with a GPU."""
        words = columns.stop - columns.start
        entries = slice(self.starts[rows.start], self.starts[rows.stop])
        row = self.rows[entries] - rows.start
        column = self.token_ids[entries] - columns.start
        # Ids of other tiles go to one more column, which is left out of the result.
        in_tile = (column >= 0) & (column < words)
        column = torch.where(in_tile, column, words)
        cut = self.truncated[rows, None].repeat(1, words + 1)
        cut[row, column] = False
        return cut[:, :words]


def pack_support(samples: Iterable[tuple[Sample, Sequence[int]]]) -> Support | None:
    """Support of the trained tokens of samples, given with their positions; None if nothing was truncated.

    Raises `LearnerError` for a token that is not among its kept ones.
    """
    lists: list[list[int] | None] = []
    for sample, positions in samples:
        if sample.support is None:
            lists += [None] * len(positions)
            continue
        kept = [sample.support[position] for position in positions]
        _check_tokens(sample, positions, kept)
        lists += kept
    if all(kept is None for kept in lists):
        return None
    counts = np.array([0 if kept is None else len(kept) for kept in lists])
    token_ids = np.fromiter(chain.from_iterable(kept or () for kept in lists), np.int64)
    starts = np.concatenate([[0], counts.cumsum()])
    rows = np.repeat(np.arange(len(lists)), counts)
    truncated = np.array([kept is not None for kept in lists])
    return Support(
        token_ids=torch.from_numpy(token_ids),
        rows=torch.from_numpy(rows),
        truncated=torch.from_numpy(truncated),
        starts=tuple(starts.tolist()),
    )


def _check_tokens(
    sample: Sample, positions: Sequence[int], kept_lists: Sequence[Sequence[int] | None]
) -> None:
    for position, kept in zip(positions, kept_lists, strict=True):
        token = sample.token_ids[position]
        if kept is not None and token not in kept:
            raise LearnerError(
                f"sample {sample.id!r}: token {token} at position {position} is not among the "
                f"{len(kept)} tokens that truncated sampling kept there, so its support is not its own"
            )
