"""The command `rlcore plan`: the memory that a recipe needs on devices that need not be here, and its speed on this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from rlcore.cli.options import count, gibibytes, size
from rlcore.cli.recipes import takes_recipe
from rlcore.recipe.load import load
from rlcore.terminal import make_console

if TYPE_CHECKING:
    from rlcore.plan.memory import Machine


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command."""
    sub = command(
        "plan",
        plan,
        "bytes of learner, engine and host from the recipe alone; whether they fit, and what to change",
    )
    takes_recipe(sub)
    sub.add_argument(
        "--gpus",
        type=size,
        metavar="N",
        help="GPUs of a node; 0: on the CPU (default: those that are here)",
    )
    sub.add_argument("--nodes", type=count, default=1, metavar="N", help="default 1")
    sub.add_argument(
        "--memory",
        type=gibibytes,
        metavar="GIB",
        help="of a GPU, or of a node without GPUs (default: what is here, else 80 for a GPU)",
    )
    sub.add_argument(
        "--sharding",
        choices=["ddp", "fsdp"],
        default="ddp",
        help="whether each learner process holds all weights and states, or its share",
    )
    sub.add_argument(
        "--serve",
        type=size,
        default=0,
        metavar="N",
        help="GPUs of all that servers have (default 0: every process has its own engine)",
    )
    sub.add_argument(
        "--run",
        type=Path,
        metavar="FOLDER",
        help="a run of the recipe, whose metrics say how long completions are and how many groups are wasted",
    )
    sub.add_argument(
        "--probe",
        action="store_true",
        help="also measure for about 20 seconds here: tokens a second of both sides, seconds a step, "
        "how to divide the devices, groups with equal rewards",
    )
    sub.add_argument("--all", action="store_true", help="a table for every stage")
    sub.add_argument("--json", action="store_true", help="print one line of JSON")


def plan(arguments: argparse.Namespace) -> int:
    """1 if the recipe does not fit."""
    recipe = load(arguments.recipe, arguments.overrides)
    from rlcore.plan import plan as planning
    from rlcore.plan import report

    machine = _machine(arguments)
    planned = planning.plan(recipe, machine, arguments.run)
    advice = planning.advise(planned, arguments.run)
    speed = None
    if arguments.probe or arguments.run is not None:
        from rlcore.plan.speed import forecast

        speed = forecast(recipe, machine, planned, run=arguments.run, do_probe=arguments.probe)
    if arguments.json:
        print(
            json.dumps(
                report.as_json(planned, advice) | ({"speed": speed.facts} if speed else {})
            )
        )
        return int(not planned.fits)
    console = make_console()
    for stage in planned.stages if arguments.all else report.shown_stages(planned):
        console.print(report.stage_table(planned, stage))
    for line in [*report.sentences(planned, advice), *(speed.sentences() if speed else ())]:
        console.print(escape(line), highlight=False)
    return int(not planned.fits)


def _machine(arguments: argparse.Namespace) -> Machine:
    import torch

    from rlcore.plan.memory import Machine, host_memory

    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = here if arguments.gpus is None else arguments.gpus
    memory = int((arguments.memory or 0) * 2**30)
    if not memory and gpus and here:
        memory = torch.cuda.get_device_properties(0).total_memory
    elif not memory:
        memory = 80 << 30 if gpus else host_memory()
    return Machine(gpus, arguments.nodes, memory, arguments.sharding, arguments.serve)
