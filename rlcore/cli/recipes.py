"""The `rlcore recipes` verbs: list recipes, show or check one, and list the keys."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from rich.markup import escape
from rich.table import Table

from rlcore.cli.options import count
from rlcore.recipe.load import dump, load, recipe_names
from rlcore.terminal import make_console, visible

console = make_console()


def takes_recipe(sub: argparse.ArgumentParser, what: str = "a recipe's name or file") -> None:
    """Declare the recipe and its overrides as arguments of a command."""
    sub.add_argument("recipe", metavar="RECIPE", help=what)
    sub.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="change the recipe, for example seed=1 stages.rl.steps=20",
    )


def add_commands(
    verbs: argparse._SubParsersAction, command: Callable[..., argparse.ArgumentParser]
) -> None:
    """Declare the verbs."""
    command("list", recipes_list, "all recipes that can be named", verbs)
    sub = command(
        "keys", recipes_keys, "the keys of a recipe, with type, default and meaning", verbs
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
            verbs,
        )
    )
    sub = command(
        "check",
        recipes_check,
        "check keys, data, prompts, rewards and presets; score reference answers and corrupted ones",
        verbs,
    )
    takes_recipe(sub)
    sub.add_argument(
        "--rows",
        type=count,
        default=200,
        help="tasks whose reference answer is scored (default 200)",
    )


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
    from rlcore.recipe.check import check, check_answers, check_demonstrations
    from rlcore.run.usable import check_lengths

    tasks: dict = {}
    for fact in check(recipe, tasks):
        print(visible(fact))
    for line in [
        *check_lengths(recipe, tasks),
        *check_answers(recipe, tasks, n=arguments.rows),
        *check_demonstrations(recipe, tasks),
    ]:
        print(visible(line))
    print(f"recipe {recipe.name} is valid")
