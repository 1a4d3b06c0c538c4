"""One rank's part of what a task sampler draws, such that the samplers of all ranks stay equal although their resamples differ."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.curriculum.task_sampler import TaskSampler, drawn


class Shares:
    """Each rank draws what all ranks draw, and keeps every `ranks`-th position.

    A resample draws one position for each rank, whoever asks first; at the end of a step the ranks that asked for fewer draw as
    often as the one that asked for most, and pass over what they draw. So the calls, and with them the states, are the same.
    """

    def __init__(self, sampler: TaskSampler, tasks: int, *, rank: int = 0, ranks: int = 1) -> None:
        self._tasks, self._sampler, self._rank, self._ranks = tasks, sampler, rank, ranks
        self.taken: list[int] = []
        """This rank's positions since the last `settle`, in the order they were given out."""
        self._resamples = 0

    def first(self, n: int) -> list[int]:
        """This rank's part of the next n positions."""
        part = self._draw(n)[self._rank :: self._ranks]
        self.taken += part
        return part

    def more(self, n: int) -> list[int]:
        """n further positions for this rank."""
        part = [self._draw(self._ranks)[self._rank] for _ in range(n)]
        self.taken += part
        self._resamples += n
        return part

    @property
    def resamples(self) -> int:
        """Positions that `more` gave since the last `settle`: what the ranks must tell each other."""
        return self._resamples

    def settle(self, resamples: Sequence[int]) -> None:
        """End the step, given the `resamples` of all ranks."""
        for _ in range(max(resamples) - self._resamples):
            self._draw(self._ranks)
        self.taken, self._resamples = [], 0

    def _draw(self, n: int) -> list[int]:
        return drawn(self._sampler, n, self._tasks)
