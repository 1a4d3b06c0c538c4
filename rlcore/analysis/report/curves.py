"""What a run's records say, as columns: metrics over steps, evaluations with intervals, stages and resumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rlcore.measures.intervals import wilson
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.rules import Row


def series(rows: Sequence[Row], *, max_points: int) -> dict[str, Any]:
    """`step`, [n], and each metric, [n] with null where it was not measured, of at most `max_points` points.

    A longer run is thinned: a point is then the mean over `per_point` consecutive steps of one stage.
    """
    per_point = max(1, math.ceil(len(rows) / max_points))
    buckets: list[Sequence[Row]] = []
    for _, of_stage in groupby(rows, key=lambda row: row.get("stage")):
        stage_rows = list(of_stage)
        for start in range(0, len(stage_rows), per_point):
            buckets.append(stage_rows[start : start + per_point])
    keys = {key for row in rows for key, value in row.items() if _is_number(value)}
    columns = {
        key: [_mean([row.get(key) for row in bucket]) for bucket in buckets]
        for key in sorted(keys - {"step"})
    }
    return {
        "step": [bucket[-1].get("step", 0) for bucket in buckets],
        "columns": columns,
        "per_point": per_point,
    }


def stages(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Name, first and last step of each training stage, in order."""
    spans = []
    for name, of_stage in groupby(rows, key=lambda row: str(row.get("stage", ""))):
        steps = [row.get("step", 0) for row in of_stage]
        spans.append({"name": name, "first": steps[0], "last": steps[-1]})
    return spans


def resumes(folder: RunFolder) -> list[int]:
    """The step after which each later process went on."""
    starts = read_rows(folder.starts)
    return [row["after_step"] for row in starts[1:]]


def evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    """The rows of eval.jsonl, with `low` and `high`: 95% interval of the accuracy, where there is one.

    An eval stage that repeats what was evaluated after the last step of a training stage stands for both.
    """
    latest = {
        (row["stage"], row["eval_set"], row["step"]): row for row in read_rows(folder.evals)
    }
    rows = []
    for row in latest.values():
        interval = wilson(row["accuracy"], row["tasks"])
        if "intervals" in row:
            interval = row["intervals"]["accuracy"]
        low, high = interval if interval else (None, None)
        kept = {key: _short(value) for key, value in row.items()}
        rows.append(kept | {"low": _short(low), "high": _short(high)})
    return rows


def _mean(values: Sequence[Any]) -> float | None:
    numbers = [value for value in values if _is_number(value)]
    return _short(sum(numbers) / len(numbers)) if numbers else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> Any:
    """A float with the five digits that a chart can show; null where it is not finite."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else None
