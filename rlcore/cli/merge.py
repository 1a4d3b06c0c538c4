"""`rlcore merge`: models, or checkpoints of a run, as one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import yaml

from rlcore.cli.options import count
from rlcore.errors import RecipeError
from rlcore.recipe.yaml_text import parse_yaml


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command."""
    sub = command("merge", merge, "make one model of several, or of the checkpoints of a run")
    sub.add_argument(
        "sources",
        nargs="+",
        metavar="MODEL",
        help="folder, hub name, or run folder (its last checkpoint)",
    )
    sub.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="parameters of the rule, such as density=0.2",
    )
    sub.add_argument("--into", required=True, type=Path, metavar="FOLDER", help="a new folder")
    sub.add_argument(
        "--rule",
        default="mean",
        help="mean (default), ema, linear, metric, residual, task_arithmetic, ties, dare, twin, or file.py:function; docs/merging.md",
    )
    sub.add_argument(
        "--base",
        metavar="MODEL",
        help="the model that the others were tuned from, for rules that add differences",
    )
    sub.add_argument(
        "--last",
        type=count,
        metavar="N",
        help="of one run folder: its last N checkpoints, oldest first",
    )


def merge(arguments: argparse.Namespace) -> None:
    from rlcore.run.merged import merge_models

    # argparse reads the words behind an option as parameters, and those before it as models
    words = [*arguments.sources, *arguments.overrides]
    names = [word for word in words if "=" not in word]
    parameters = dict(_parameter(word) for word in words if "=" in word)
    merged = merge_models(
        names,
        arguments.into.expanduser(),
        {"use": arguments.rule, **parameters},
        base=arguments.base,
        last=arguments.last,
    )
    for source, weight in merged:
        print(source if weight is None else f"{source}  weight {weight:.4g}")
    print(f"merged into {arguments.into}")


def _parameter(word: str) -> tuple[str, object]:
    name, _, text = word.partition("=")
    try:
        return name, parse_yaml(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{word!r} cannot be read: {error}") from None
