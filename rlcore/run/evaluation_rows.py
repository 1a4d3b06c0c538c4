"""What is read of a row of eval.jsonl, by the run itself and by the commands that look at it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

EVALUATION_KEYS = re.compile(r"(greedy/)?(accuracy(/.+)?|(pass|maj|rm|vote_sum|vote_max)@\d+)$")
"""What trackers get of an evaluation, as `eval/<stage>/<key>`."""
SHOWN_KEYS = re.compile(r"greedy/accuracy$|(pass|maj|rm|vote_sum|vote_max)@(?!1$)\d+$")
"""What is shown of it beside the accuracy."""


def proportion(value: float) -> str:
    """62.5%; what is none, such as the mean of a reward that goes beyond 1, as a plain number."""
    return f"{value:.1%}" if 0 <= value <= 1 else f"{value:.3g}"


def num_unscored(row: Mapping[str, Any]) -> int:
    """Completions without a score, which count in no number of the row."""
    return round(row.get("reward/frac_unscored", 0.0) * row["completions"])
