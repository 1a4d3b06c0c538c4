"""The stability gap: how far a score falls when the data change, and how long until it is back
(arXiv 2406.14833).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlcore.measures.learning_curve import curve_from_log


@dataclass(frozen=True)
class StabilityGap:
    """Of one eval set during one training stage."""

    start: float
    """Score before the stage."""
    lowest: float
    """Lowest score during the stage, or `start` where it never fell below."""
    steps_to_lowest: int
    """Steps of the stage until the first evaluation with the lowest score; 0 where it never fell."""
    steps_to_return: int | None
    """Steps until the first evaluation after the lowest with at least `start`; None: not within the stage."""
    end: float
    """Score of the stage's last evaluation."""

    @property
    def depth(self) -> float:
        """`start - lowest`: 0 where the score never fell below its start."""
        return self.start - self.lowest


def stability_gap(start: float, scores: Sequence[tuple[int, float]]) -> StabilityGap:
    """The gap of a curve of scores for which larger is better; give losses with a minus sign.

    scores: (steps of the stage, score) of each evaluation, at least one, steps rising.
    Raises `ValueError`.
    """
    steps = [step for step, _ in scores]
    if (
        not scores
        or steps[0] < 1
        or any(b <= a for a, b in zip(steps, steps[1:], strict=False))
    ):
        raise ValueError(f"a gap needs evaluations after rising numbers of steps, not {steps}")
    lowest_step, lowest = min(scores, key=lambda point: point[1])
    end = scores[-1][1]
    if lowest >= start:
        return StabilityGap(start, start, 0, 0, end)
    returned = [step for step, score in scores if step > lowest_step and score >= start]
    return StabilityGap(start, lowest, lowest_step, returned[0] if returned else None, end)


def gap_from_log(
    rows: Iterable[Mapping[str, Any]], eval_set: str, *, stage_index: int, key: str = "accuracy"
) -> StabilityGap:
    """The gap of an eval set in the training stage at place `stage_index`, from the rows of eval.jsonl.

    key: of the row. Raises `RunError` as `curve_from_log` does.
    """
    (_, start), *scores = curve_from_log(rows, eval_set, stage_index=stage_index, key=key)
    return stability_gap(start, scores)
