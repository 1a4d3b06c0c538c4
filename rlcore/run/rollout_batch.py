"""One rank's part of a batch, generated and scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rlcore.credit.estimator import Cost
from rlcore.rollout.collector import CollectedBatch
from rlcore.types import Group, Rollout, Sample


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutBatch:
    """This rank's part of one batch, ready to be learned from."""

    collected: CollectedBatch
    """`groups` are those to learn from; groups of follow-up tasks come last and have no index in the task set."""
    value_cost: Cost | None
    """Of step values, where the stage estimates them."""
    resamples: int
    """Draws in place of rejected groups."""

    @property
    def groups(self) -> list[Group]:
        return self.collected.groups

    @property
    def all_groups(self) -> list[Group]:
        """Rejected ones too."""
        return self.collected.groups + self.collected.rejected

    @property
    def rollouts(self) -> list[Rollout]:
        """Those to learn from."""
        return [rollout for group in self.groups for rollout in group.rollouts]

    def keyed(
        self, samples: Sequence[Sequence[Sample]]
    ) -> list[tuple[tuple[int, int, str], list[Sample]]]:
        """(sort key, samples) of each group to learn from. The keys make minibatches equal for any number of ranks.

        Groups of follow-up tasks come last.
        """
        pairs = []
        for draw, of_group in zip(self.collected.draws, samples, strict=True):
            follow_up = draw.task_index is None
            key = (1, 0, draw.task.id) if follow_up else (0, draw.order, "")
            pairs.append((key, list(of_group)))
        return pairs

    def placed(self) -> Iterator[tuple[int | None, Group, bool]]:
        """(index in the task set, group, accepted) of every group."""
        batch = self.collected
        for draw, group in zip(batch.draws, batch.groups, strict=True):
            yield draw.task_index, group, True
        for draw, group in zip(batch.rejected_draws, batch.rejected, strict=True):
            yield draw.task_index, group, False
