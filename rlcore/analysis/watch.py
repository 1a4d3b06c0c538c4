"""A run on a terminal while it goes on: where it stands, how long it will take, and how its numbers develop."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.console import Group as Lines
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rlcore.recipe.load import load
from rlcore.recipe.run_mark import is_running
from rlcore.recipe.schema import Recipe
from rlcore.run.evaluation_rows import proportion
from rlcore.run.folder import RunFolder, read_rows
from rlcore.terminal import sparkline

POLL_S = 1.0
RECENT = 10
"""Steps that the estimate of the time left is made from."""

SHOWN = (
    "reward/mean",
    "loss",
    "completions/length/mean",
    "reward/frac_zero_std",
    "entropy",
    "tokens_per_s/generated",
    "tokens_per_s/trained",
)
"""Metrics that have a line, where the present stage measures them."""


def watch(run: Path, console: Console, *, once: bool = False) -> None:
    """Show the run until it ends, or until interrupted. Raises `RunError`."""
    folder = RunFolder.of_run(run)
    recipe = load(str(folder.recipe))
    if once or not is_running(folder.path):
        console.print(picture(folder, recipe))
        return
    with Live(picture(folder, recipe), console=console, auto_refresh=False) as live:
        while is_running(folder.path):
            time.sleep(POLL_S)
            live.update(picture(folder, recipe), refresh=True)


def picture(folder: RunFolder, recipe: Recipe) -> Lines:
    """The state of the run."""
    rows = read_rows(folder.metrics)
    evals = read_rows(folder.evals)
    state = "running" if is_running(folder.path) else "not running"
    head = Text(f"{folder.path}: {state}", style="bold")
    parts: list[Any] = [head]
    if rows:
        stage_rows = [row for row in rows if row["stage"] == rows[-1]["stage"]]
        parts += [_progress(stage_rows, recipe), _numbers(stage_rows)]
    if evals:
        parts.append(_evaluations(evals))
    if not rows and not evals:
        parts.append(Text("no step yet"))
    return Lines(*parts)


def _progress(rows: Sequence[dict[str, Any]], recipe: Recipe) -> Table:
    name = rows[-1]["stage"]
    totals = {stage.label: getattr(stage, "steps", None) for stage in recipe.stages}
    total = totals.get(name) or len(rows)
    grid = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=total, completed=len(rows), width=30)
    grid.add_row(name, bar, f"{len(rows)}/{total}", _time_left(rows, total))
    return grid


def _time_left(rows: Sequence[dict[str, Any]], total: int) -> str:
    seconds = [row["time/total"] for row in rows[-RECENT:] if "time/total" in row]
    if not seconds or len(rows) >= total:
        return ""
    left = round(statistics.fmean(seconds) * (total - len(rows)))
    return f"{timedelta(seconds=left)} left in this stage"


def _numbers(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for key in SHOWN:
        values = [row[key] for row in rows if key in row]
        if values:
            table.add_row(key, f"{values[-1]:.4g}", sparkline(values))
    return table


def _evaluations(evals: Sequence[dict[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name in dict.fromkeys(row["eval_set"] for row in evals):
        values = [row["accuracy"] for row in evals if row["eval_set"] == name]
        table.add_row(
            f"accuracy, {name}", proportion(values[-1]), sparkline(values, low=0.0, high=1.0)
        )
    return table
