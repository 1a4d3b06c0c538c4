"""`rlcore compare`: what differs between runs, and whether their evaluations do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlcore.cli.options import count
from rlcore.run.evaluation_rows import SHOWN_KEYS, num_unscored, proportion
from rlcore.terminal import make_console, visible

if TYPE_CHECKING:
    from rlcore.analysis.compare import Comparison


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command."""
    sub = command(
        "compare", compare, "compare runs: recipes, evaluations, and which tasks changed"
    )
    sub.add_argument(
        "runs",
        nargs="+",
        metavar="RUN[:STAGE]",
        help="run folders, each with the name of an eval stage to take it from (default: the last "
        "evaluation of each eval set); the first is what the others are compared with",
    )
    sub.add_argument(
        "--show",
        choices=["gained", "lost", "changed"],
        help="also print the completions of tasks that changed",
    )
    sub.add_argument(
        "--limit", type=count, default=4, metavar="N", help="with --show: tasks (default 4)"
    )
    sub.add_argument("--json", action="store_true", help="print one line of JSON instead")


def compare(arguments: argparse.Namespace) -> None:
    from rlcore.analysis import compare as comparing

    sides = [comparing.side(text) for text in arguments.runs]
    differences = comparing.recipe_differences(sides)
    results = list(comparing.results(sides))
    pairs = [pair for other in sides[1:] for pair in comparing.compare(sides[0], other)]
    if arguments.json:
        record = {
            "recipe": differences,
            "results": results,
            "comparisons": [pair.as_json() for pair in pairs],
        }
        print(json.dumps(record))
        return
    console = make_console()
    if len(sides) > 1:
        _show_differences(console, [side.name for side in sides], differences)
    _show_results(console, results)
    for pair in pairs:
        if isinstance(pair, comparing.Uncompared):
            text = f"{pair.eval_set}: {pair.before} and {pair.after} are not compared, {pair.reason}"
            console.print(visible(text), markup=False, highlight=False, soft_wrap=True)
            continue
        _show_pair(console, pair)
        if arguments.show:
            _show_changes(console, pair, arguments.show, arguments.limit)


def _show_differences(
    console: Console, names: Sequence[str], differences: dict[str, list[Any]]
) -> None:
    if not differences:
        console.print("the recipes are the same")
        return
    table = Table("key of the recipe", *map(escape, names))
    for key, values in differences.items():
        table.add_row(escape(key), *(escape(visible(_short(value))) for value in values))
    console.print(table)


def _show_results(console: Console, results: Sequence[dict[str, Any]]) -> None:
    more = list(dict.fromkeys(key for row in results for key in row if SHOWN_KEYS.match(key)))
    heads = ["run", "eval set", "stage", "step", "tasks", "scored", "accuracy", "95% interval"]
    table = Table(*heads, *more)
    for row in results:
        interval = row.get("intervals", {}).get("accuracy")
        table.add_row(
            escape(row["run"]),
            escape(row["eval_set"]),
            escape(row["stage"])
            + (f", during {escape(row['during'])}" if row.get("during") else ""),
            str(row["step"]),
            str(row["tasks"]),
            _scored(row),
            proportion(row["accuracy"]),
            " to ".join(map(proportion, interval)) if interval else "",
            *(proportion(row[key]) if key in row else "" for key in more),
        )
    console.print(table)


def _scored(row: dict[str, Any]) -> str:
    """Completions that count in the accuracy, of how many."""
    completions, unscored = row["completions"], num_unscored(row)
    return f"{completions - unscored} of {completions}" if unscored else str(completions)


def _show_pair(console: Console, pair: Comparison) -> None:
    low, high = pair.interval
    gained = sum(change.gained for change in pair.changes)
    lines = [
        f"{pair.eval_set}: {pair.before} -> {pair.after}, {pair.tasks} tasks in pairs",
        f"  difference {pair.difference:+.1%}, 95% interval {low:+.1%} to {high:+.1%} (paired bootstrap over tasks)",
        f"  {gained} tasks gained, {len(pair.changes) - gained} lost",
    ]
    if pair.p_value is not None:
        lines[-1] += f"; McNemar's exact test: p = {pair.p_value:.3g}"
    if pair.unpaired:
        lines.append(f"  {pair.unpaired} tasks that only one of them has are left out")
    console.print(visible("\n".join(lines)), markup=False, highlight=False, soft_wrap=True)


def _show_changes(console: Console, pair: Comparison, which: str, limit: int) -> None:
    from rlcore.analysis.rollout_text import shown

    chosen = [
        change
        for change in pair.changes
        if which == "changed" or change.gained == (which == "gained")
    ]
    for change in chosen[:limit]:
        word = "gained" if change.gained else "lost"
        for name, result in ((pair.before, change.before), (pair.after, change.after)):
            title = f"\n{word}: {change.task}, {name}, mean score {result.mean:.2f}"
            console.print(visible(title), markup=False, style="bold")
            console.print(shown(result.rows), highlight=False, soft_wrap=True)
    console.print(f"\n{min(limit, len(chosen))} of {len(chosen)} tasks")


def _short(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
