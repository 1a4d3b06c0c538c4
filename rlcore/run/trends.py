"""How a metric changes over the steps of a stage: what the rules of `rlcore.run.rules` look at."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
"""Of metrics.jsonl."""

FEWEST_STEPS = 8
"""Steps that a trend is seen in."""
STEPS_OF_WASTE = FEWEST_STEPS // 2
"""Steps that a mean of the second half is taken of."""
STEPS_OF_A_TREND = 3 * FEWEST_STEPS // 2
"""Steps of which the first and the last third can be compared."""


@dataclass(frozen=True)
class Change:
    first: float
    last: float
    standard_errors: float
    """Difference of the means of the first and the last third, by its standard error."""


def change_of(rows: Sequence[Row], key: str) -> Change | None:
    values = values_of(rows, key)
    third = len(values) // 3
    if len(values) < STEPS_OF_A_TREND:
        return None
    early, late = values[:third], values[-third:]
    first, last = statistics.fmean(early), statistics.fmean(late)
    variance = (statistics.variance(early) + statistics.variance(late)) / third
    # Equal values have no error; a rounding error is none either.
    error = max(math.sqrt(variance), 1e-6 * max(1.0, abs(first)))
    return Change(first, last, (last - first) / error)


def peak_of(rows: Sequence[Row], key: str) -> float:
    """The highest mean over a tenth of the steps, at least two, that follow each other."""
    values = values_of(rows, key)
    width = max(2, len(values) // 10)
    windows = range(max(1, len(values) - width + 1))
    return max(statistics.fmean(values[start : start + width]) for start in windows)


def ends_of(rows: Sequence[Row], key: str) -> tuple[float | None, float | None]:
    """Means of the first and the last fifth of a metric; None where there are too few steps."""
    values = values_of(rows, key)
    if len(values) < FEWEST_STEPS:
        return None, None
    fifth = max(1, len(values) // 5)
    return statistics.fmean(values[:fifth]), statistics.fmean(values[-fifth:])


def late_mean(rows: Sequence[Row], key: str) -> float | None:
    """Mean over the second half of the steps."""
    values = values_of(rows, key)
    late = values[len(values) // 2 :]
    return statistics.fmean(late) if len(values) >= STEPS_OF_WASTE else None


def values_of(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows if key in row]
