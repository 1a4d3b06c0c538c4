"""`rlcore measure`: measures that papers report, on finished runs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from typing import Any

from rich.markup import escape
from rich.table import Table

from rlcore.cli.options import parameters
from rlcore.errors import RecipeError
from rlcore.terminal import make_console, visible


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command."""
    sub = command(
        "measure", measure, "measures of papers on finished runs; without one, a list"
    )
    sub.add_argument(
        "name", nargs="?", metavar="MEASURE", help="its name, or file.py:function for your own"
    )
    sub.add_argument(
        "runs",
        nargs="*",
        metavar="RUN[:STAGE]",
        help="run folders, each with the name of an eval stage to take it from (default: the last "
        "evaluation of each eval set)",
    )
    sub.add_argument(
        "overrides", nargs="*", metavar="key=value", help="parameters of the measure"
    )
    sub.add_argument("--json", action="store_true", help="print one line of JSON instead")


def measure(arguments: argparse.Namespace) -> None:
    from rlcore.analysis.compare import side
    from rlcore.analysis.run_measures import listed
    from rlcore.analysis.run_measures import measure as measured

    if arguments.name is None:
        table = Table("measure and its parameters", "what it is", show_lines=True)
        for name, about in listed().items():
            table.add_row(escape(name), escape(about))
        make_console().print(table)
        return
    words = [*arguments.runs, *arguments.overrides]
    runs = [word for word in words if "=" not in word]
    settings = [word for word in words if "=" in word]
    if not runs:
        raise RecipeError(
            f"measure {arguments.name!r} needs a run: rlcore measure {arguments.name} RUN"
        )
    rows = measured(arguments.name, [side(run) for run in runs], parameters(settings))
    if arguments.json:
        print(
            json.dumps(
                [{column: _json(value) for column, value in row.items()} for row in rows]
            )
        )
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(*(escape(visible(column)) for column in columns))
    for row in rows:
        table.add_row(*(escape(visible(_cell(row.get(column)))) for column in columns))
    make_console().print(table)


def _json(value: Any) -> Any:
    """The value; None for a number that JSON does not have."""
    if isinstance(value, tuple | list):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple | list):
        return " to ".join(map(_cell, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
