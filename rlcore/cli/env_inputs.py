"""What `rlcore env ...` is about: an environment with its tools and parameters, and a task for it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlcore.cli.options import count, parameters, seconds, size
from rlcore.errors import EnvError, RecipeError, brief
from rlcore.recipe.yaml_text import read_yaml

if TYPE_CHECKING:
    from rlcore.env.forms import EnvironmentSpec
    from rlcore.plugin import Named
    from rlcore.types import Task


def spec_of(arguments: argparse.Namespace) -> EnvironmentSpec:
    """The environment with its tools and parameters. Raises `RecipeError`."""
    from rlcore.env.forms import EnvironmentSpec

    use = "" if arguments.environment == "-" else arguments.environment
    return EnvironmentSpec(use, _tools(arguments.tools), parameters(arguments.params))


def _tools(words: Sequence[str]) -> list[Named]:
    """Names, and the YAML of recipes: `{use: python, cpu_s: 5}`, or a list of such and of names."""
    tools: list[Named] = []
    for word in words:
        value = _named(word, "--tools")
        tools += value if isinstance(value, list) else [value]
    for tool in tools:
        has_name = isinstance(tool, Mapping) and isinstance(tool.get("use"), str)
        if not (isinstance(tool, str) or has_name):
            raise RecipeError(
                f"--tools has {brief(tool)}; write a name, or {{use: name, parameter: value}}"
            )
    return tools


def _named(word: str, option: str) -> Any:
    """YAML where a word begins like a list or a mapping of it; else the word."""
    return read_yaml(word, option) if word.lstrip().startswith(("[", "{")) else word


def task_of(arguments: argparse.Namespace) -> Task:
    """The task that `--tasks` or `--task` names. Raises `EnvError` or `RecipeError`."""
    if arguments.tasks is not None:
        return _task_of_set(arguments.tasks, arguments.number or 0)
    if arguments.number is not None:
        raise RecipeError("--number is the place of a task in a set: name the set with --tasks")
    return _described(arguments.task)


def _task_of_set(word: str, number: int) -> Task:
    """word: as a set in a recipe's `tasks`. number: of the task, from 0."""
    from rlcore.plugin import call
    from rlcore.recipe.build import build_tasks
    from rlcore.recipe.task_sections import TaskSection

    named = _named(word, "--tasks")
    params = {"use": named} if isinstance(named, str) else named
    if not isinstance(params, Mapping) or not isinstance(params.get("use"), str):
        raise RecipeError(
            f"--tasks is {brief(named)}; write a name, or {{use: name, parameter: value}}"
        )
    tasks = call("--tasks", build_tasks, TaskSection(**params))
    if number >= len(tasks):
        raise RecipeError(f"--number is {number}, but the task set has {len(tasks)}, from 0 on")
    return tasks[number]


def _described(text: str) -> Task:
    """The task that JSON describes: `prompt`, `answer`, and columns."""
    from rlcore.types import Task

    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise EnvError(f"cannot read the task: {error}") from None
    try:
        row = json.loads(text)
    except ValueError as error:
        raise EnvError(
            f'--task is no JSON ({error}); write \'{{"prompt": ..., "answer": ...}}\''
        ) from None
    if not isinstance(row, Mapping):
        raise EnvError("--task must be a JSON object with the columns of the task")
    columns = {key: value for key, value in row.items() if key not in ("prompt", "answer")}
    prompt = row.get("prompt", "")
    if not isinstance(prompt, str | list):
        raise EnvError("the task's prompt must be a text or a list of messages")
    return Task(id="task", prompt=prompt, answer=row.get("answer"), columns=columns)


def takes_environment(sub: argparse.ArgumentParser) -> None:
    """Declare the arguments that `spec_of` and `task_of` read, and those of an episode."""
    sub.add_argument(
        "environment",
        metavar="ENVIRONMENT",
        help="a built-in name, package.module:object or file.py:object; '-' for --tools alone",
    )
    sub.add_argument(
        "params", nargs="*", metavar="key=value", help="parameters of the environment"
    )
    task = sub.add_mutually_exclusive_group()
    task.add_argument(
        "--task",
        default="{}",
        metavar="JSON",
        help="the task: prompt, answer and columns; @FILE reads a file",
    )
    task.add_argument(
        "--tasks",
        metavar="SET",
        help="the task is one of a set, named as in a recipe: number_guessing, or '{use: facts, hops: [2]}'",
    )
    sub.add_argument(
        "--number", type=size, metavar="N", help="which task of the set (default 0)"
    )
    sub.add_argument(
        "--tools",
        nargs="+",
        default=[],
        metavar="NAME",
        help="as env.tools in a recipe: names, or '[finish, {use: python, cpu_s: 5}]'",
    )
    sub.add_argument(
        "--python", metavar="PATH", help="another interpreter, as env.python in a recipe"
    )
    sub.add_argument(
        "--max-turns",
        type=count,
        default=8,
        metavar="N",
        help="completions of an episode (default 8)",
    )
    sub.add_argument(
        "--deadline",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="for one turn (default 30)",
    )
