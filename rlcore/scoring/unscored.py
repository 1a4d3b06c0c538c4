"""The scorer of a stage whose rewards are all the policy's own: every rollout gets 0 here, and its reward later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rlcore.types import Rollout, Task, Verdict


class Unscored:
    """Keeps the protocol of `rlcore.scoring.scorer.Scorer`, without workers."""

    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(self) -> None:
        self._done: list[tuple[str, list[Verdict]]] = []

    def submit(self, key: str, task: Task, rollouts: Sequence[Rollout]) -> None:
        """Done at once; a rollout that was aborted has no score here either."""
        cut = Verdict(value=None, status="unscorable", reason="cut at the rollout deadline")
        self._done.append(
            (
                key,
                [
                    cut if rollout.finish == "aborted" else Verdict(value=0.0)
                    for rollout in rollouts
                ],
            )
        )

    def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
        """All that was submitted since the last call."""
        done, self._done = self._done, []
        return done

    def check_progress(self) -> None:
        """Nothing can get stuck."""

    def close(self) -> None:
        """Nothing to free."""

    def __enter__(self) -> Unscored:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
