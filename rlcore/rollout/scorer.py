"""What the generator needs of a scorer; `rlcore.scoring.scorer.Scorer` is the one of every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlcore.types import Rollout, Task, Verdict


class Scorer(Protocol):
    """The part of the scorer that the generator needs."""

    def submit(self, key: str, task: Task, rollouts: Sequence[Rollout]) -> None:
        """Start scoring the rollouts of one task."""

    def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
        """Verdicts that are ready, by key, in the order of the rollouts submitted."""

    def check_progress(self) -> None:
        """Raise `RewardError` if reward calls have stopped finishing."""
