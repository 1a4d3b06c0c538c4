"""Transfer and forgetting over the stages of a run, from the accuracy of each eval set after each stage.

Names of lifelong-learning metrics as in Lopez-Paz and Ranzato 2017 (arXiv 1706.08840, backward and forward transfer)
and Chaudhry et al. 2018 (arXiv 1801.10112, forgetting).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Matrix:
    """accuracy[i][name]: of an eval set after i training stages; row 0 is before any of them."""

    stages: list[str]
    """Labels of the training stages."""
    accuracy: list[dict[str, float]]

    def forgetting(self, name: str) -> float | None:
        """Best accuracy that an eval set ever had before the last stage, minus the last: above 0 it was forgotten."""
        measured = self._measured(name)
        return max(measured[:-1]) - measured[-1] if len(measured) > 1 else None

    def maintenance(self, name: str, trained_in: int) -> float | None:
        """Backward transfer: last accuracy minus that right after the stage that trained it (1 is the first stage)."""
        after = self.accuracy[trained_in].get(name)
        measured = self._measured(name)
        return None if after is None else measured[-1] - after

    def forward_transfer(self, name: str, trained_in: int) -> float | None:
        """Accuracy just before the stage that trains an eval set, minus that of the untrained model."""
        start = self.accuracy[0].get(name)
        before = self.accuracy[trained_in - 1].get(name)
        return None if start is None or before is None else before - start

    def _measured(self, name: str) -> list[float]:
        return [row[name] for row in self.accuracy if name in row]


def matrix(kinds: Sequence[tuple[str, bool]], rows: Sequence[Mapping[str, Any]]) -> Matrix:
    """From the stages of a recipe, as (label, whether it trains), and the rows of eval.jsonl.

    An evaluation counts for the training stages before it; of several at one place the last counts.
    Those made between steps of a training stage are left out.
    """
    trained_before = []
    done = 0
    for _, trains in kinds:
        trained_before.append(done)
        done += trains
    accuracy: list[dict[str, float]] = [{} for _ in range(done + 1)]
    for row in rows:
        if "during" not in row:
            accuracy[trained_before[row["stage_index"]]][row["eval_set"]] = row["accuracy"]
    return Matrix([label for label, trains in kinds if trains], accuracy)
