"""The `rlcore` command: reads arguments, calls one function, prints the outcome. No logic of the engine lives here.

Exit status: 0 done, 1 a reward or an installation that was examined did not pass, 2 bad input or a run that had to stop (one sentence says
why), 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rlcore.cli import curriculum as cli_curriculum
from rlcore.cli import rewards as cli_rewards
from rlcore.errors import RlcoreError
from rlcore.recipe.load import dump, load, recipe_names

console = Console() if sys.stdout.isatty() else Console(width=160)

BENCH_SIZES = {
    "repeats": "calls of each side that count",
    "prompts": "prompts in a batch",
    "group-size": "answers to a prompt",
    "prompt-tokens": "tokens of a prompt",
    "answer-min": "shortest answer",
    "answer-max": "longest answer",
    "hidden-size": "of the model (head: of its last layer)",
    "layers": "of the model",
    "micro-batch-tokens": "tokens we take in one forward",
    "trl-micro-batch": "sequences TRL takes in one forward, 0 for all",
    "vocabulary": "head only",
    "tokens": "head only",
    "megabytes": "corpus only: of synthetic text",
    "samples": "rewards only: answers in the batch",
    "rollouts": "credit only: continuations of a prefix",
    "workers": "rewards only: processes that score",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    arguments = _parse(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end: end as after Ctrl-C
    # Read when torch is imported. Idle threads that spin make two busy processes on the same cores ten times slower.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault(
        "TORCH_CPP_LOG_LEVEL", "ERROR"
    )  # read when torch is imported; hides a remark on NUMA
    try:
        return arguments.command(arguments) or 0
    except RlcoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "interrupted; 'rlcore train ... --resume' goes on after the last checkpoint",
            file=sys.stderr,
        )
        return 130


def train(arguments: argparse.Namespace) -> None:
    recipe = load(arguments.recipe, arguments.overrides)
    from rlcore.run.driver import train

    summary = train(recipe, resume=arguments.resume, overwrite=arguments.overwrite, console=console)
    if int(os.environ.get("RANK", 0)) == 0:
        gain = (
            ""
            if summary.accuracy_after is None
            else f"accuracy {summary.accuracy_before:.1%} -> {summary.accuracy_after:.1%}; "
        )
        print(f"{gain}{summary.seconds:.0f} s; everything is in {summary.run}")
        if arguments.json:
            print(json.dumps(asdict(summary)))


def evaluate(arguments: argparse.Namespace) -> None:
    from rlcore.run.driver import train
    from rlcore.stages.eval import evaluation_recipe

    train(evaluation_recipe(arguments.recipe, arguments.overrides), overwrite=True, console=console)


def recipes_list(arguments: argparse.Namespace) -> None:
    table = Table("name", "file", "what")
    for name, path in recipe_names().items():
        first = path.read_text(encoding="utf-8").splitlines()[:1]
        table.add_row(
            name, str(path), first[0].lstrip("# ") if first and first[0].startswith("#") else ""
        )
    console.print(table)


def recipes_keys(arguments: argparse.Namespace) -> None:
    from rlcore.recipe.keys import all_keys, find_keys, part_names

    keys = find_keys(arguments.word) if arguments.word else [*all_keys(), *part_names()]
    table = Table("key", "type", "default", "meaning")
    for key in keys:
        table.add_row(*map(escape, key))
    console.print(table)


def recipes_show(arguments: argparse.Namespace) -> None:
    print(dump(load(arguments.recipe, arguments.overrides)), end="")


def recipes_check(arguments: argparse.Namespace) -> None:
    recipe = load(arguments.recipe, arguments.overrides)
    from rlcore.recipe.check import check, check_answers

    tasks: dict = {}
    for fact in check(recipe, tasks):
        print(fact)
    for line in check_answers(recipe, tasks, n=arguments.rows):
        print(line)
    print(f"recipe {recipe.name} is valid")


def bench(arguments: argparse.Namespace) -> None:
    from rlcore.bench.run import in_words, run, shown

    result = run(
        arguments.what, {key: value for key, value in vars(arguments).items() if value is not None}
    )
    if arguments.json:
        print(json.dumps(result))
        return
    table = Table("what", "value")
    for key, value in result.items():
        table.add_row(key.replace("_", " "), shown(value))
    console.print(table, width=min(100, console.width))
    for line in in_words(result):
        print(line)


def credit_show(arguments: argparse.Namespace) -> None:
    from rlcore.analysis.credit_view import show

    console.print(
        show(arguments.run, step=arguments.step, rollout=arguments.rollout, page_to=arguments.html)
    )


def corpus(arguments: argparse.Namespace) -> None:
    from rlcore.recipe.corpus import survey

    settings = [
        *arguments.overrides,
        *(f"keep.against=[{', '.join(arguments.against)}]" for _ in arguments.against[:1]),
    ]
    result = survey(arguments.file, settings)
    if arguments.json:
        print(json.dumps(result))
        return
    table = Table("what", "value")
    for key, value in result.items():
        table.add_row(key, f"{value:,}" if isinstance(value, int) else str(value))
    console.print(table)


def doctor(arguments: argparse.Namespace) -> int:
    """1 if a part that rlcore needs does not work."""
    from rlcore.cli.doctor import examine

    table = Table("part", "found", "use")
    findings = examine()
    for finding in findings:
        table.add_row(finding.part, escape(finding.text), finding.use)
    console.print(table)
    return int(any(finding.needed and not finding.works for finding in findings))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments with options and overrides in any order, which argparse alone does not allow below a command."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if [word for word in rest if word.startswith("-")] or (
        rest and not hasattr(arguments, "overrides")
    ):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


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

    def takes_recipe(sub: argparse.ArgumentParser, what: str = "a recipe's name or file") -> None:
        sub.add_argument("recipe", metavar="RECIPE", help=what)
        sub.add_argument(
            "overrides",
            nargs="*",
            metavar="key=value",
            help="change the recipe, for example seed=1 stages.rl.steps=20",
        )

    sub = command("train", train, "run a recipe's stages in order")
    takes_recipe(sub)
    mode = sub.add_mutually_exclusive_group()
    mode.add_argument(
        "--resume", action="store_true", help="go on after the last checkpoint of the run folder"
    )
    mode.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    sub.add_argument("--json", action="store_true", help="end with one line of JSON")

    takes_recipe(
        command(
            "eval",
            evaluate,
            "run only the eval stages: of a recipe's model, or of a run's last checkpoint",
        ),
        "a recipe's name or file, or a run folder",
    )

    recipes = commands.add_parser(
        "recipes", help="list, show, check recipes, or list their keys"
    ).add_subparsers(required=True, metavar="VERB")
    command("list", recipes_list, "all recipes that can be named", recipes)
    sub = command(
        "keys", recipes_keys, "the keys of a recipe, with type, default and meaning", recipes
    )
    sub.add_argument(
        "word",
        nargs="?",
        metavar="WORD",
        help="those of a section (credit, rl.optim), of a part (curriculum.sec), of a stage "
        "(file.py:Class), or with a word in them",
    )
    takes_recipe(
        command(
            "show",
            recipes_show,
            "print a recipe resolved: parents, overrides and defaults filled in",
            recipes,
        )
    )
    sub = command(
        "check",
        recipes_check,
        "check keys, data, rewards and presets; score reference answers and corrupted ones",
        recipes,
    )
    takes_recipe(sub)
    sub.add_argument(
        "--rows", type=int, default=200, help="tasks whose reference answer is scored (default 200)"
    )

    about = "list, start, try or attack reward functions"
    rewards = commands.add_parser("rewards", help=about).add_subparsers(
        required=True, metavar="VERB"
    )
    cli_rewards.add_commands(rewards, command)

    about = "compare task samplers on a run's record, or draw its categories"
    verbs = commands.add_parser("curriculum", help=about).add_subparsers(
        required=True, metavar="VERB"
    )
    cli_curriculum.add_commands(verbs, command)

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
        "--step", type=int, metavar="N", help="optimiser step (default: the last with step values)"
    )
    sub.add_argument(
        "--rollout", metavar="ID", help="its id (default: the one whose values differ most)"
    )
    sub.add_argument("--html", type=Path, metavar="FILE", help="also write a page")

    _add_measures(command)
    command("doctor", doctor, "say what is installed and what works")
    return parser


def _add_measures(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command(
        "bench",
        bench,
        "measure on this machine, mostly against others, and print ratios with their spread",
    )
    sub.add_argument(
        "what",
        choices=["learner", "head", "train", "rewards", "credit", "corpus"],
        help="what is timed",
    )
    sub.add_argument(
        "--against", choices=["trl"], default="trl", help="the other side of learner and train"
    )
    sub.add_argument(
        "--shape",
        choices=["ragged", "shared"],
        default="ragged",
        help="short prompts, ragged answers; long prompts",
    )
    sub.add_argument(
        "--model",
        choices=["tiny", "qwen3-0.6b", "qwen2.5-1.5b"],
        help="learner only: shape of the model",
    )
    sub.add_argument("--dtype", choices=["float32", "bfloat16"], help="learner only")
    for option, about in BENCH_SIZES.items():
        sub.add_argument(f"--{option}", type=int, metavar="N", help=about)
    sub.add_argument("--json", action="store_true", help="print one line of JSON")

    sub = command("corpus", corpus, "prepare raw text and count what was dropped at each step")
    sub.add_argument(
        "file", metavar="FILE", help="txt, jsonl, jsonl.gz or parquet file, folder, or a hub name"
    )
    sub.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="keys of a corpus task set, for example unit=paragraph",
    )
    sub.add_argument(
        "--against",
        nargs="+",
        default=[],
        metavar="EXAM",
        help="evaluation files whose n-grams must not occur",
    )
    sub.add_argument("--json", action="store_true", help="print one line of JSON")
