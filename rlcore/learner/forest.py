"""Prefix trees of token sequences: a run of tokens common to several sequences is stored once.

    a b c d        a b c            segments      lengths (3, 1, 2), parents (-1, 0, 0)
    a b c x y           d           in one row    a b c d x y
                        x y         paths         (0, 1) and (0, 2)

A segment reads itself causally and its ancestors fully. Segments are in preorder: a parent stands before its children, and all
that descends from a segment follows it without a gap. So one number a segment says who may read it: `ends`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

KEYS = 4096
"""Keys at which reading them costs a token about as much as the rest of a layer does (6 x hidden size); only balance needs it."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Segments of one flat row in preorder, and the segments each sequence is made of."""

    lengths: tuple[int, ...]  # [S]
    parents: tuple[int, ...]  # [S], -1 for a root
    paths: tuple[tuple[int, ...], ...]  # [R], root first

    @property
    def tokens(self) -> int:
        """Length of the row."""
        return sum(self.lengths)

    @property
    def cost(self) -> float:
        """Tokens, plus what attention adds: pairs of a token and a key it reads, over `KEYS`."""
        above, pairs = [], 0.0
        for length, parent in zip(self.lengths, self.parents, strict=True):
            above.append(0 if parent < 0 else above[parent] + self.lengths[parent])
            pairs += length * (above[-1] + length / 2)
        return self.tokens + pairs / KEYS


def ends(lengths: Sequence[int], parents: Sequence[int]) -> list[int]:
    """For each segment [S] the place in the row where its last descendant ends: token i reads token j if j <= i < end of j's."""
    last = np.cumsum(lengths).tolist()
    for segment in range(len(lengths) - 1, -1, -1):
        if (parent := parents[segment]) >= 0:
            last[parent] = max(last[parent], last[segment])
    return last


def join(forests: Sequence[Forest]) -> Forest:
    """The forests side by side in one row."""
    lengths: list[int] = []
    parents: list[int] = []
    paths: list[tuple[int, ...]] = []
    for forest in forests:
        first = len(lengths)
        lengths += forest.lengths
        parents += [parent if parent < 0 else parent + first for parent in forest.parents]
        paths += [tuple(segment + first for segment in path) for path in forest.paths]
    return Forest(tuple(lengths), tuple(parents), tuple(paths))


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens two sequences begin with in common."""
    n = min(len(first), len(second))
    different = np.flatnonzero(np.asarray(first[:n]) != np.asarray(second[:n]))
    return int(different[0]) if len(different) else n


def grow(lengths: Sequence[int], shared: Sequence[int], least: int) -> Forest:
    """The prefix forest of R sorted sequences: their lengths [R], and tokens each has in common with the one before it [R].

    A run of fewer than `least` common tokens is not worth a segment: each sequence keeps its own copy of it.
    """
    made: list[int] = []
    parents: list[int] = []
    paths: list[tuple[int, ...]] = [()] * len(lengths)
    todo: list[tuple[int, int, int, tuple[int, ...]]] = [(0, len(lengths), 0, ())]
    while todo:
        start, stop, placed, path = (
            todo.pop()
        )  # sequences start..stop, alike that far, whose first `placed` tokens are on `path`
        alike = lengths[start] if stop - start == 1 else min(shared[start + 1 : stop])
        if stop - start == 1 or alike - placed >= least:
            made.append(alike - placed)
            parents.append(path[-1] if path else -1)
            path, placed = (*path, len(made) - 1), alike
            for sequence in range(start, stop):
                paths[sequence] = path  # for good, where the sequence ends here
        cuts = [start, *(cut for cut in range(start + 1, stop) if shared[cut] == alike), stop]
        parts = [(a, b) for a, b in pairwise(cuts) if lengths[a] > placed]
        # Last in, first out. Equal lengths without descendants side by side: attention takes such neighbours in one call.
        parts.sort(key=lambda part: (part[1] - part[0] == 1, -lengths[part[0]]), reverse=True)
        todo += [(*part, placed, path) for part in parts]
    return Forest(tuple(made), tuple(parents), tuple(paths))
