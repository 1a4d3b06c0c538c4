"""The `rlcore` command: reads arguments, calls one function, prints the outcome. No logic of the engine lives here.

Exit status: 0 done, 1 a reward or an installation that was examined did not pass, 2 bad input or a run that had to stop (one sentence says
why), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from rlcore.cli import compare as cli_compare
from rlcore.cli import curriculum as cli_curriculum
from rlcore.cli import env as cli_env
from rlcore.cli import evaluate as cli_evaluate
from rlcore.cli import measure as cli_measure
from rlcore.cli import merge as cli_merge
from rlcore.cli import models as cli_models
from rlcore.cli import paper_measures as cli_paper_measures
from rlcore.cli import plan as cli_plan
from rlcore.cli import push as cli_push
from rlcore.cli import recipes as cli_recipes
from rlcore.cli import report as cli_report
from rlcore.cli import rewards as cli_rewards
from rlcore.cli import serve as cli_serve
from rlcore.cli import sweep as cli_sweep
from rlcore.cli.options import count
from rlcore.errors import RlcoreError
from rlcore.recipe.load import is_run_folder, load
from rlcore.signals import end_on_signals
from rlcore.terminal import lasting_output, make_console, visible

console = make_console()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    with lasting_output():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    arguments = _parse(argv)
    end_on_signals()
    # Read when torch is imported. Idle threads that spin make two busy processes on the same cores ten times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    # read when torch is imported; hides a remark on NUMA
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        return arguments.command(arguments) or 0
    except RlcoreError as error:
        print(visible(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        if int(os.environ.get("RANK", 0)) == 0:
            print(str(interrupt) or "interrupted", file=sys.stderr)
        return 130


def train(arguments: argparse.Namespace) -> None:
    recipe = load(arguments.recipe, arguments.overrides)
    from rlcore.run.driver import train
    from rlcore.run.evaluation_rows import proportion

    summary = train(
        recipe,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        console=console,
        folder=_run_folder(arguments.recipe, arguments.overrides),
    )
    if int(os.environ.get("RANK", 0)) == 0:
        gain = (
            ""
            if summary.accuracy_after is None
            else f"accuracy {proportion(summary.accuracy_before)} -> {proportion(summary.accuracy_after)}; "
        )
        print(f"{gain}{summary.seconds:.0f} s; everything is in {summary.run}")
        if arguments.json:
            print(json.dumps(asdict(summary)))


def _run_folder(name: str, overrides: Sequence[str]) -> Path | None:
    """The run folder that a command names in place of a recipe, wherever it was moved to.

    None where the overrides give the run another one.
    """
    moved = any(item.startswith(("name=", "run.folder=")) for item in overrides)
    return Path(name) if is_run_folder(Path(name)) and not moved else None


def credit_show(arguments: argparse.Namespace) -> None:
    from rlcore.analysis.credit_view import show

    console.print(
        show(
            arguments.run,
            step=arguments.step,
            rollout=arguments.rollout,
            page_to=arguments.html,
        )
    )


def doctor(arguments: argparse.Namespace) -> int:
    """1 if a part that rlcore needs does not work."""
    from rlcore.cli.doctor import examine

    table = Table("part", "found", "use")
    recipe = load(arguments.recipe, arguments.overrides) if arguments.recipe else None
    findings = examine(recipe)
    for finding in findings:
        table.add_row(finding.part, escape(finding.text), finding.use)
    console.print(table)
    return int(any(finding.needed and not finding.works for finding in findings))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments with options and `key=value` words in any order, which argparse alone does not allow below a command."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    pairs = next((key for key in ("overrides", "params") if hasattr(arguments, key)), None)
    if rest and (pairs is None or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if pairs is not None:
        setattr(arguments, pairs, [*getattr(arguments, pairs), *rest])
    return arguments


_GROUPS = (
    ("recipes", cli_recipes, "list, show, check recipes, or list their keys"),
    ("rewards", cli_rewards, "list, start, try or attack reward functions"),
    ("env", cli_env, "test an environment without a model, or play it"),
    ("models", cli_models, "look at a model before a run"),
    (
        "curriculum",
        cli_curriculum,
        "compare task samplers on a run's record, or draw its categories",
    ),
)
"""Commands that have verbs of their own: name, module, what they are for."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rlcore", description="RL post-training for language models, wired by recipes."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, run: object, about: str, group: argparse._SubParsersAction = commands
    ) -> argparse.ArgumentParser:
        sub = group.add_parser(name, help=about, description=about)
        sub.set_defaults(command=run)
        return sub

    sub = command("train", train, "run a recipe's stages in order")
    cli_recipes.takes_recipe(sub)
    mode = sub.add_mutually_exclusive_group()
    mode.add_argument(
        "--resume",
        action="store_true",
        help="go on after the last checkpoint of the run folder",
    )
    mode.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    sub.add_argument("--json", action="store_true", help="end with one line of JSON")

    cli_evaluate.add_commands(command)
    cli_serve.add_commands(command)

    for name, module, about in _GROUPS:
        group = commands.add_parser(name, help=about)
        module.add_commands(group.add_subparsers(required=True, metavar="VERB"), command)

    _add_credit(commands, command)
    cli_report.add_commands(command)
    cli_push.add_commands(command)
    cli_merge.add_commands(command)
    cli_sweep.add_commands(command)
    cli_compare.add_commands(command)
    cli_paper_measures.add_commands(command)
    cli_plan.add_commands(command)
    cli_measure.add_commands(command)
    sub = command("doctor", doctor, "say what is installed and what works on this machine")
    about = "look at the disk against this recipe's checkpoints"
    sub.add_argument("recipe", nargs="?", metavar="RECIPE", help=about)
    sub.add_argument("overrides", nargs="*", metavar="key=value", help="change the recipe")
    return parser


def _add_credit(
    commands: argparse._SubParsersAction, command: Callable[..., argparse.ArgumentParser]
) -> None:
    credit = commands.add_parser(
        "credit", help="look at what the steps of an answer were worth"
    ).add_subparsers(required=True, metavar="VERB")
    sub = command(
        "show",
        credit_show,
        "an answer of a run: tokens coloured by advantage, values of its steps",
        credit,
    )
    sub.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    sub.add_argument(
        "--step",
        type=count,
        metavar="N",
        help="optimiser step (default: the last with step values)",
    )
    sub.add_argument(
        "--rollout", metavar="ID", help="its id (default: the one whose values differ most)"
    )
    sub.add_argument("--html", type=Path, metavar="FILE", help="also write a page")
