"""One rank's part of what a task sampler draws.

The samplers of all ranks stay equal, although their resamples differ.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rlcore.curriculum.task_sampler import TaskSampler, drawn
from rlcore.types import Task


class Draw(NamedTuple):
    """One task that was drawn for a batch; equal for any number of ranks."""

    task_index: int
    """Of the task in its task set."""
    order: int
    """How many tasks were drawn for this batch before it, over all ranks: the global order of its
    groups.
    """
    occurrence: int
    """How many of them were this same task: together with the task it names the group."""


class RankDraws:
    """Each rank draws what all ranks draw, and keeps every `ranks`-th task.

    A resample draws one task for each rank, whoever asks first; at the end of a batch the
    ranks that asked for fewer draw as often as the one that asked for most, and discard what they
    draw. So the draws, and with them the states, are the same on all ranks. Resamples are drawn
    one by one, so the sequence of draws does not depend on the number of ranks.
    """

    def __init__(
        self, sampler: TaskSampler, tasks: Sequence[Task], *, rank: int = 0, ranks: int = 1
    ) -> None:
        self._sampler = sampler
        self._tasks = tasks
        self._rank = rank
        self._ranks = ranks
        self._reset()

    def _reset(self) -> None:
        self._resamples = 0
        self._order = 0
        self._occurrences: Counter[int] = Counter()

    def draw_batch(self, n: int) -> list[Draw]:
        """This rank's part of the next n draws."""
        return self._draw(n)[self._rank :: self._ranks]

    def draw_replacements(self, n: int) -> list[Draw]:
        """n further draws for this rank."""
        self._resamples += n
        return [self._draw_for_each_rank()[self._rank] for _ in range(n)]

    @property
    def resamples(self) -> int:
        """Draws that `draw_replacements` gave since the last `end_batch`: what the ranks must tell each other."""
        return self._resamples

    def end_batch(self, resamples: Sequence[int]) -> None:
        """End the batch, given the `resamples` of all ranks."""
        for _ in range(max(resamples) - self._resamples):
            self._draw_for_each_rank()
        self._reset()

    def fork(self, of_batch: Sequence[Draw] | None = None) -> RankDraws:
        """An independent copy in the middle of the same batch: its draws do not change those of
        this object.

        Batches that are resampled while later ones are already drawn use it: fork after `draw_batch`,
        end the batch of this object with no resamples, and call `draw_replacements` of the fork. The fork may draw tasks
        that the next batch draws as well. of_batch: the draws of all ranks, where the batch was drawn by another object.
        """
        # A sampler may hold the task set, which is large and never changes: both share it.
        shared = {id(self._tasks): self._tasks}
        sampler = copy.deepcopy(self._sampler, shared)
        twin = RankDraws(sampler, self._tasks, rank=self._rank, ranks=self._ranks)
        twin._resamples = self._resamples
        twin._order = self._order
        twin._occurrences = Counter(self._occurrences)
        if of_batch is not None:
            twin._order = len(of_batch)
            twin._occurrences = Counter(draw.task_index for draw in of_batch)
        return twin

    def _draw_for_each_rank(self) -> list[Draw]:
        return [self._draw(1)[0] for _ in range(self._ranks)]

    def _draw(self, n: int) -> list[Draw]:
        draws = []
        for task_index in drawn(self._sampler, n, len(self._tasks)):
            draws.append(Draw(task_index, self._order, self._occurrences[task_index]))
            self._order += 1
            self._occurrences[task_index] += 1
        return draws
