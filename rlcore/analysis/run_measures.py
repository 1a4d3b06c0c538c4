"""The measures of `rlcore.measures` on finished runs: from kept completions and logs to the rows of a table.

A measure takes sides (a run, or one eval stage of it) and parameters of its own, and returns rows: column -> value. One
of your own is a function like those of `completion_measures` and `log_measures`, named `file.py:function`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rlcore.analysis.compare import Side
from rlcore.errors import RunError
from rlcore.plugin import build_later, call, find

Row = dict[str, Any]


def row_head(side: Side, eval_set: str) -> Row:
    """The first columns of a row of one run."""
    return {"run": side.name, "eval set": eval_set}


MEASURES = {
    "calibration": "rlcore.analysis.completion_measures:calibration",
    "capability": "rlcore.analysis.completion_measures:capability",
    "expert": "rlcore.analysis.log_measures:expert",
    "expected_maximum": "rlcore.analysis.completion_measures:expected_maximum",
    "power_law": "rlcore.analysis.log_measures:power_law",
    "reconsider": "rlcore.analysis.completion_measures:reconsider",
    "stability_gap": "rlcore.analysis.log_measures:stability_gap",
    "transfer": "rlcore.analysis.log_measures:transfer",
}
"""Name -> where it is."""


def measure(name: str, sides: Sequence[Side], parameters: Mapping[str, Any]) -> list[Row]:
    """The rows of a measure.

    Raises `RecipeError` for an unknown one or a wrong parameter, `RunError` for runs that lack what it needs.
    """
    named = {"use": name, **parameters}
    function = build_later(named, MEASURES, what="measure", given=1)

    def rows_or_reason() -> list[Row]:
        try:
            return function(sides)
        except ValueError as problem:
            raise RunError(f"measure {name!r}: {problem}") from None

    rows = call(f"measure {name!r}", rows_or_reason)
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise RunError(
            f"measure {name!r} must return a list of rows, each a dict of column -> value, not {type(rows).__name__}"
        )
    if not rows:
        raise RunError(f"measure {name!r} finds nothing to measure in these evaluations")
    return rows


def listed() -> dict[str, str]:
    """Name of each measure with its parameters -> the first sentence on it."""
    about = {}
    for name in MEASURES:
        function = find(name, MEASURES, what="measure")
        parameters = list(inspect.signature(function).parameters.values())[1:]
        settings = [f"{parameter.name}={_default(parameter)}" for parameter in parameters]
        first = (inspect.getdoc(function) or "").partition("\n\n")[0]
        about[" ".join([name, *settings])] = " ".join(first.split())
    return about


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return parameter.name.upper()
    return "" if parameter.default is None else str(parameter.default)
