"""A learner beside an expert of one task, by their learning curves (Lifelong Learning Metrics, arXiv 2201.08278)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rlcore.errors import RunError

Curve = Sequence[tuple[float, float]]
"""(steps of the training stage, score) of each evaluation, at least two, steps rising from 0: before the stage."""


def relative_performance(own: Curve, expert: Curve) -> float | None:
    """Area under the own curve by that of the expert's, over the steps that both have; None where the expert's is 0.

    Above 1 the learner was better while it learned, as by what it knew from earlier tasks.
    """
    last = min(own[-1][0], expert[-1][0])
    areas = [_area(curve, last) for curve in (own, expert)]
    return areas[0] / areas[1] if areas[1] else None


def sample_efficiency(own: Curve, expert: Curve) -> float | None:
    """Ratio of the best scores times the ratio of the steps that they took, expert's by own; None where one is undefined.

    Above 1 the learner reached more, or the same in fewer steps.
    """
    (own_steps, own_best), (expert_steps, expert_best) = map(_saturation, (own, expert))
    if not own_steps or not expert_best:
        return None
    return own_best / expert_best * expert_steps / own_steps


def curve_from_log(
    rows: Iterable[Mapping[str, Any]], eval_set: str, *, stage_index: int, key: str = "accuracy"
) -> list[tuple[int, float]]:
    """The curve of an eval set in the training stage at place `stage_index`, from the rows of eval.jsonl.

    It begins at step 0 with the last evaluation before that stage, of an eval stage or of the training stage before, and has
    those during it (`eval_every`). key: of the row. Raises `RunError` where one of them is missing.
    """
    before: Mapping[str, Any] | None = None
    during = []
    for row in rows:
        if row["eval_set"] != eval_set:
            continue
        if row["stage_index"] < stage_index:
            before = row
        elif row["stage_index"] == stage_index and "during" in row:
            during.append(row)
    if before is None or not during:
        where = "before" if before is None else "during"
        raise RunError(
            f"eval.jsonl has no evaluation of {eval_set!r} {where} stage {stage_index}: the curve needs an eval "
            "stage before the stage and eval_every in it"
        )
    curve = [(row["step"] - before["step"], row[key]) for row in during]
    return [(0, before[key]), *curve]


def _saturation(curve: Curve) -> tuple[float, float]:
    """Steps until the best score, and that score."""
    best = max(score for _, score in curve)
    return next(step for step, score in curve if score == best), best


def _area(curve: Curve, last: float) -> float:
    """Of the straight lines between the points, from step 0 to `last`."""
    area = 0.0
    for (left, low), (right, high) in zip(curve, curve[1:], strict=False):
        end = min(right, last)
        if end <= left:
            break
        at_end = low + (high - low) * (end - left) / (right - left)
        area += (end - left) * (low + at_end) / 2
    return area
