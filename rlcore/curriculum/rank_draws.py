"""One rank's part of what a task sampler draws, such that the samplers of all ranks stay equal although they resample differently."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rlcore.curriculum.task_sampler import TaskSampler, drawn


class Draw(NamedTuple):
    """One position that a rank was given."""

    position: int
    order: int
    """Place among all draws of the batch, over all ranks."""
    occurrence: int
    """How often the position was drawn before in this batch, over all ranks."""


class RankDraws:
    """Each rank draws what all ranks draw, and keeps every `ranks`-th position.

    A resample draws one position for each rank, whoever asks first; at the end of a batch the ranks that asked for fewer draw
    as often as the one that asked for most, and pass over what they draw. So the calls, and with them the states, are equal.
    """

    def __init__(self, sampler: TaskSampler, tasks: int, *, rank: int = 0, ranks: int = 1) -> None:
        self._sampler, self._tasks = sampler, tasks
        self.rank, self.ranks = rank, ranks
        self._order = 0
        self._occurrences: Counter[int] = Counter()
        self.resamples = 0
        """Positions that `more` gave since the last `settle`: what the ranks must tell each other."""

    def first(self, n: int) -> list[Draw]:
        """This rank's part of the next n positions."""
        return self._draw(n)[self.rank :: self.ranks]

    def more(self, n: int) -> list[Draw]:
        """n further positions for this rank."""
        self.resamples += n
        return [self._draw(self.ranks)[self.rank] for _ in range(n)]

    def settle(self, resamples: Sequence[int]) -> None:
        """End the batch, given the `resamples` of all ranks."""
        for _ in range(max(resamples) - self.resamples):
            self._draw(self.ranks)
        self.resamples, self._order = 0, 0
        self._occurrences.clear()

    def fork(self) -> RankDraws:
        """An independent copy: what it draws does not move this one."""
        return copy.deepcopy(self)

    def _draw(self, n: int) -> list[Draw]:
        draws = []
        for position in drawn(self._sampler, n, self._tasks):
            draws.append(Draw(position, self._order, self._occurrences[position]))
            self._order += 1
            self._occurrences[position] += 1
        return draws
