"""The number of completion tokens after which a stage ends, those of continuations for step values included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlcore.run.folder import read_rows

if TYPE_CHECKING:
    from rlcore.run.session import Run


class TokenLimit:
    """Counts the tokens of all steps of the stage, those before a resume from its metrics."""

    def __init__(self, run: Run, limit: int | None) -> None:
        self._limit = limit
        first_step = run.cursor.step - run.cursor.stage_step
        rows = read_rows(run.folder.metrics)[first_step:]
        self._tokens = run.gather([sum(map(_tokens, rows))])[0]

    @property
    def reached(self) -> bool:
        return self._limit is not None and self._tokens >= self._limit

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Count one step."""
        self._tokens += _tokens(metrics)


def _tokens(metrics: Mapping[str, Any]) -> int:
    return metrics["tokens/completion"] + metrics.get("credit/tokens", 0)
