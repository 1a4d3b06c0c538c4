"""Prefix trees of token sequences: a run of tokens common to several sequences is stored once.

    a b c d        a b c            segments      lengths (3, 1, 2), parents (-1, 0, 0)
    a b c x y           d           in one row    a b c d x y
                        x y         paths         (0, 1) and (0, 2)

A segment reads itself causally and its ancestors fully. Segments are in preorder: a parent stands
before its children, and all descendants of a segment follow it without a gap. So one number a
segment says who may read it: `ends`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

KEYS = 4096
"""Number of keys whose reading costs a token about as much as the rest of a layer does.

About 6 x hidden size; only the balance of micro-batches depends on it.
"""


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
        """Tokens, plus the cost of attention: pairs of a token and a key it reads, over `KEYS`."""
        tokens_above: list[int] = []
        pairs = 0.0
        for length, parent in zip(self.lengths, self.parents, strict=True):
            above = 0
            if parent >= 0:
                above = tokens_above[parent] + self.lengths[parent]
            tokens_above.append(above)
            # Each token reads all tokens above, and on average half of its own segment.
            pairs += length * (above + length / 2)
        return self.tokens + pairs / KEYS


def ends(lengths: Sequence[int], parents: Sequence[int]) -> list[int]:
    """For each segment [S] the position in the row where its last descendant ends.

    Token i reads token j exactly if j <= i < end of j's segment.
    """
    last = np.cumsum(lengths).tolist()
    # Backwards, children come before their parents.
    for segment in reversed(range(len(lengths))):
        parent = parents[segment]
        if parent >= 0:
            last[parent] = max(last[parent], last[segment])
    return last


def join(forests: Sequence[Forest]) -> Forest:
    """The forests side by side in one row."""
    lengths: list[int] = []
    parents: list[int] = []
    paths: list[tuple[int, ...]] = []
    for forest in forests:
        offset = len(lengths)
        lengths += forest.lengths
        for parent in forest.parents:
            parents.append(parent if parent < 0 else parent + offset)
        for path in forest.paths:
            paths.append(tuple(segment + offset for segment in path))
    return Forest(tuple(lengths), tuple(parents), tuple(paths))


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """Length of the common prefix of two sequences."""
    shorter = min(len(first), len(second))
    is_different = np.asarray(first[:shorter]) != np.asarray(second[:shorter])
    different = np.flatnonzero(is_different)
    return int(different[0]) if len(different) else shorter


@dataclass(frozen=True, slots=True)
class _Part:
    """Sorted sequences `start` to `stop` (exclusive) that still need segments.

    They are equal in their first `placed` tokens, which lie in the segments of `path`.
    """

    start: int
    stop: int
    placed: int
    path: tuple[int, ...]

    @property
    def is_single(self) -> bool:
        return self.stop - self.start == 1


def grow(lengths: Sequence[int], shared: Sequence[int], least: int) -> Forest:
    """The prefix forest of R sorted sequences.

    lengths [R]; shared [R]: tokens that each has in common with the sequence before it. A common
    run of fewer than `least` tokens is not worth a segment: each sequence keeps its own copy.
    """
    segment_lengths: list[int] = []
    parents: list[int] = []
    paths: list[tuple[int, ...]] = [()] * len(lengths)
    todo = [_Part(0, len(lengths), 0, ())]
    while todo:
        part = todo.pop()
        placed = part.placed
        path = part.path
        if part.is_single:
            common_length = lengths[part.start]
        else:
            common_length = min(shared[part.start + 1 : part.stop])
        if part.is_single or common_length - placed >= least:
            parents.append(path[-1] if path else -1)
            path = (*path, len(segment_lengths))
            segment_lengths.append(common_length - placed)
            placed = common_length
            # Final for sequences that end here; the longer ones get a longer path below.
            for sequence in range(part.start, part.stop):
                paths[sequence] = path
        todo += _branches(part, lengths, shared, common_length, placed, path)
    return Forest(tuple(segment_lengths), tuple(parents), tuple(paths))


def _branches(
    part: _Part,
    lengths: Sequence[int],
    shared: Sequence[int],
    common_length: int,
    placed: int,
    path: tuple[int, ...],
) -> list[_Part]:
    """The part cut where neighbours differ right after the common prefix, in stack order."""
    cuts = [part.start]
    for position in range(part.start + 1, part.stop):
        if shared[position] == common_length:
            cuts.append(position)
    cuts.append(part.stop)
    branches = []
    for start, stop in pairwise(cuts):
        if lengths[start] > placed:  # else all its tokens have a segment
            branches.append(_Part(start, stop, placed, path))
    # The stack is last in, first out: branches of several sequences are placed first, then the
    # single ones, longest first. Segments of equal length without descendants then lie side by
    # side, and attention takes such neighbours in one call.
    branches.sort(key=lambda branch: (branch.is_single, -lengths[branch.start]), reverse=True)
    return branches
