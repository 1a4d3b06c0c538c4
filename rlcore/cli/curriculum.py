"""The `rlcore curriculum` verbs: compare task samplers on the record of a run, and draw its categories."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from rlcore.cli.options import count
from rlcore.errors import RunError
from rlcore.recipe.yaml_text import read_yaml
from rlcore.terminal import make_console


def add_commands(
    verbs: argparse._SubParsersAction, command: Callable[..., argparse.ArgumentParser]
) -> None:
    """Declare the verbs."""
    sub = command(
        "replay",
        curriculum_replay,
        "let task samplers draw again from a run's record; nothing is generated",
        verbs,
    )
    sub.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    sub.add_argument(
        "--sampler",
        action="append",
        metavar="NAME",
        help="as in a recipe: sec, or '{use: sec, alpha: 0.3}'; several times",
    )
    sub.add_argument(
        "--passes",
        type=count,
        default=1,
        metavar="N",
        help="draw so many steps for each recorded one (default 1)",
    )
    sub.add_argument("--seed", type=int, default=0, help="of the samplers")
    sub.add_argument(
        "--plot", type=Path, metavar="FILE", help="where the SVG goes (default RUN/replay.svg)"
    )
    sub.add_argument("--json", action="store_true", help="print one line of JSON")
    sub = command(
        "plot",
        curriculum_plot,
        "share, pass rate and value of each category over a run, as SVG",
        verbs,
    )
    sub.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    sub.add_argument(
        "--out", type=Path, metavar="FILE", help="where it goes (default RUN/curriculum.svg)"
    )


def curriculum_replay(arguments: argparse.Namespace) -> None:
    from rlcore.analysis.replay import Record, replay, replay_svg

    record = Record(arguments.run)
    named = [
        read_yaml(text, f"--sampler {text}") for text in arguments.sampler or ["uniform", "sec"]
    ]
    found = [
        replay(record, name, seed=arguments.seed, passes=arguments.passes) for name in named
    ]
    place = arguments.plot or arguments.run / "replay.svg"
    place.write_text(replay_svg(found), encoding="utf-8")
    if arguments.json:
        print(json.dumps({"plot": str(place), "samplers": [asdict(one) for one in found]}))
        return
    categories = sorted({category for one in found for category in one.shares})
    table = Table(
        "sampler",
        "mean |advantage|",
        "mixed groups",
        "tasks",
        *[f"share of {category}" for category in categories],
    )
    for one in found:
        shares = [f"{one.shares.get(category, 0.0):.1%}" for category in categories]
        table.add_row(
            one.sampler, f"{one.signal:.3f}", f"{one.mixed:.1%}", str(one.tasks), *shares
        )
    make_console().print(table)
    print(f"shares over {record.steps * arguments.passes} steps: {place}")


def curriculum_plot(arguments: argparse.Namespace) -> None:
    from rlcore.run.plots import draw_categories

    if not (arguments.run / "metrics.jsonl").is_file():
        raise RunError(f"{arguments.run} is no run folder: there is no metrics.jsonl in it")
    place = arguments.out or arguments.run / "curriculum.svg"
    if not draw_categories(arguments.run, place):
        raise RunError(f"the metrics of {arguments.run} have fewer than two categories to show")
    print(place)
