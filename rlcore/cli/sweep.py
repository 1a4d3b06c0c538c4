"""`rlcore sweep`: a recipe with several values of some of its keys."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.sweep.search import SEARCHES
from rlcore.cli.options import count, share, size
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
    _add_cheaper(sub)
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


def _add_cheaper(sub: argparse.ArgumentParser) -> None:
    """Options for bad trials that cost less, and for failed ones."""
    sub.add_argument(
        "--stop-on",
        action="append",
        default=[],
        metavar="low:STAGE/METRIC",
        help="stop trials early by their first steps: good ones have a low (or high:) value, for example low:sft/grad_norm; "
        "may be given several times",
    )
    sub.add_argument(
        "--stop-after",
        type=count,
        default=10,
        metavar="N",
        help="steps of the stage before that is decided (default 10)",
    )
    sub.add_argument(
        "--stop-share",
        type=share,
        default=0.5,
        metavar="SHARE",
        help="stopped if more than this share of the trials before were better (default 0.5)",
    )
    sub.add_argument(
        "--fidelity",
        metavar="KEY=VALUES",
        help="values of a key from cheap to dear, for example stages.sft.steps=[20, 60, 180]: all trials run with the first, "
        "and the best with the next",
    )
    sub.add_argument(
        "--eta", type=count, default=3, metavar="N", help="1 of N goes on (default 3)"
    )
    sub.add_argument("--retry", action="store_true", help="run failed trials once more")


def sweep(arguments: argparse.Namespace) -> None:
    from rlcore.analysis.sweep.early import EarlyStop
    from rlcore.analysis.sweep.shown import sweep_table
    from rlcore.analysis.sweep.space import Dimension
    from rlcore.analysis.sweep.sweep import Sweep, run_sweep

    space = [Dimension.parse(text) for text in arguments.over]
    stop = None
    if arguments.stop_on:
        stop = EarlyStop.parse(
            arguments.stop_on, after=arguments.stop_after, share=arguments.stop_share
        )
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
            stop=stop,
            fidelity=Dimension.parse(arguments.fidelity) if arguments.fidelity else None,
            eta=arguments.eta,
            retry=arguments.retry,
        )
    )
    print()
    print(sweep_table(results))
    print(f"\nresults are in {results.path}")
