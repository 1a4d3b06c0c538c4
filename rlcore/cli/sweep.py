"""`rlcore sweep`: a recipe with several values of some of its keys."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.sweep.search import SEARCHES
from rlcore.cli.options import count, size
from rlcore.cli.recipes import takes_recipe


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command."""
    sub = command(
        "sweep", sweep, "search values of a recipe's keys; goes on where it was stopped"
    )
    takes_recipe(sub)
    sub.add_argument(
        "--over",
        action="append",
        required=True,
        metavar="KEY=VALUES",
        help="a key and its values: [1e-4, 3e-4], {log: [1e-5, 1e-3]}, {uniform: [0, 1]}, {int: [4, 16]} or "
        "{simplex: [web, math]} (shares that sum to 1); may be given several times",
    )
    sub.add_argument(
        "--search",
        choices=SEARCHES,
        help="grid: every combination (default where all values are lists); random; tpe (default else) and gp are Bayesian",
    )
    sub.add_argument("--trials", type=count, metavar="N", help="needed but for a grid")
    sub.add_argument(
        "--seeds", type=count, default=1, metavar="N", help="runs of each trial (default 1)"
    )
    sub.add_argument(
        "--search-seed", type=size, default=0, metavar="N", help="of the search (default 0)"
    )
    goal = sub.add_mutually_exclusive_group()
    goal.add_argument(
        "--maximise",
        metavar="STAGE/METRIC",
        help="for example rl/reward/mean (default: accuracy of the last evaluation)",
    )
    goal.add_argument("--minimise", metavar="STAGE/METRIC", help="for example sft/loss")
    sub.add_argument(
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="of runs and results.json (default: runs/sweep-RECIPE)",
    )


def sweep(arguments: argparse.Namespace) -> None:
    from rlcore.analysis.sweep.space import Dimension
    from rlcore.analysis.sweep.sweep import Sweep, run_sweep, sweep_table

    space = [Dimension.parse(text) for text in arguments.over]
    all_lists = all(dimension.kind == "choice" for dimension in space)
    results = run_sweep(
        Sweep(
            recipe=arguments.recipe,
            overrides=arguments.overrides,
            space=space,
            search=arguments.search or ("grid" if all_lists else "tpe"),
            trials=arguments.trials,
            seeds=arguments.seeds,
            metric=arguments.maximise or arguments.minimise,
            maximise=arguments.minimise is None,
            folder=arguments.folder or Path("runs") / f"sweep-{Path(arguments.recipe).stem}",
            search_seed=arguments.search_seed,
        )
    )
    print()
    print(sweep_table(results))
    print(f"\nresults are in {results.path}")
