"""The commands `rlcore env ...`: test an environment without a model, or be its policy."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from rlcore.cli.options import count, seconds, size
from rlcore.errors import EnvError, RecipeError
from rlcore.recipe.yaml_text import read_yaml
from rlcore.terminal import make_console, visible

if TYPE_CHECKING:
    from rlcore.env.forms import EnvironmentSpec
    from rlcore.env.kit import Examination
    from rlcore.types import Message, Task

console = make_console()


def env_test(arguments: argparse.Namespace) -> int:
    """1 if the environment did not pass."""
    from rlcore.env.kit import examine, load_policy, say

    policy = None
    if arguments.policy:
        load_policy(arguments.policy)  # a wrong name is said at once

        def policy() -> Any:
            return load_policy(arguments.policy)
    elif arguments.say:

        def policy() -> Any:
            return say(arguments.say)

    result = examine(
        _spec(arguments),
        _task(arguments),
        policy,
        max_turns=arguments.max_turns,
        deadline_s=arguments.deadline,
        python=arguments.python,
    )
    if arguments.json:
        print(json.dumps(result.as_dict()))
    else:
        _show(result)
    return int(bool(result.problems))


def _show(result: Examination) -> None:
    table = Table("episode", "status", "turns", "reward", "slowest ms", "reason")
    for played in result.episodes:
        slowest = max(turn.seconds for turn in played.turns)
        reward = "" if played.reason else f"{played.reward:g}"
        row = [played.name, played.status, str(len(played.turns) - 1), reward]
        table.add_row(*row, f"{1000 * slowest:.1f}", escape(played.reason[:60]))
    for name, outcome in result.checks.items():
        if name != "replies":
            table.add_row(f"check: {name}", outcome, "", "", "", "")
    for trial in result.faults:
        outcome = "contained" if trial.contained else "NOT CONTAINED"
        time = f"{1000 * trial.seconds:.1f}"
        told = trial.reason[:60] or "-"
        table.add_row(f"fault: {trial.name}", trial.status, "", outcome, time, escape(told))
    console.print(table)
    times = result.times
    print(
        f"milliseconds per turn: median {1000 * statistics.median(times):.3g}, worst {1000 * max(times):.3g}"
    )
    print(f"replies: {visible(result.checks.get('replies', 'none'))}")
    if result.tools:
        print(f"tools: {', '.join(result.tools)}")
    for problem in result.problems:
        print(visible(f"problem: {problem}"))


def env_play(arguments: argparse.Namespace) -> int:
    """The person at the terminal is the policy."""
    from rlcore.env.kit import converse
    from rlcore.env.pool import EnvironmentPool, Failed

    task = _task(arguments)
    with EnvironmentPool(
        _spec(arguments), workers=1, deadline_s=arguments.deadline, python=arguments.python
    ) as pool:
        if pool.tools:
            print('Tools; call one as: name {"argument": value}')
            for schema in pool.tools:
                function = schema.get("function", schema)
                fields = (function.get("parameters") or {}).get("properties") or {}
                print(
                    visible(
                        f"  {function['name']}({', '.join(fields)})  {function.get('description') or ''}"
                    )
                )
        if task.prompt:
            _print_messages(task.prompt if isinstance(task.prompt, list) else [], task.prompt)
        total = 0.0
        turns = converse(
            pool,
            "play",
            task,
            lambda _: _typed(pool.tools),
            max_turns=arguments.max_turns,
            seed=arguments.seed,
            deadline_s=arguments.deadline,
        )
        try:
            for turn in turns:
                answer = turn.answer
                if isinstance(answer, Failed):
                    print(visible(f"the episode failed: {answer.status} ({answer.reason})"))
                    return 1
                total += answer.reward
                if answer.restart:
                    print("--- a new prompt replaces everything before")
                if not answer.done:
                    _print_messages(answer.reply, answer.reply)
                if answer.reward or answer.done:
                    print(f"[reward {answer.reward:g}, together {total:g}]")
                if answer.done:
                    print("the episode is over")
                    return 0
        except EOFError:
            print("ended")
            return 0
    print(f"the episode is cut after {arguments.max_turns} turns (--max-turns)")
    return 0


def _print_messages(reply: Any, text: Any) -> None:
    if isinstance(text, str):
        print(visible(text))
    for message in reply if isinstance(reply, list) else ():
        name = message.get("name") or message["role"]
        print(visible(f"{name}: {message.get('content') or ''}"))


def _typed(schemas: list[dict[str, Any]]) -> Message:
    """A line of the person: a call of a tool, or a text. Raises `EOFError` at the end of the input."""
    from rlcore.env.kit.policies import call_of

    while True:
        text = input("> ") if sys.stdin.isatty() else input()
        try:
            return call_of(text, schemas) or {"role": "assistant", "content": text}
        except ValueError as error:
            print(f"the call cannot be read: {error}")


def _spec(arguments: argparse.Namespace) -> EnvironmentSpec:
    from rlcore.env.forms import EnvironmentSpec

    params: dict[str, Any] = {}
    for item in arguments.params:
        key, equals, value = item.partition("=")
        if not equals:
            raise RecipeError(f"the parameter {item!r} has no '='; write key=value")
        params[key] = read_yaml(value, f"the parameter {key}")
    use = "" if arguments.environment == "-" else arguments.environment
    return EnvironmentSpec(use, arguments.tools, params)


def _task(arguments: argparse.Namespace) -> Task:
    """The task that `--task` describes: `prompt`, `answer`, and columns."""
    from rlcore.types import Task

    text = arguments.task
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


def add_commands(
    group: argparse._SubParsersAction, command: Callable[..., argparse.ArgumentParser]
) -> None:
    """Declare the verbs of `rlcore env`. command: (name, function, about, group) -> its parser."""
    about = (
        "play episodes of an environment with odd completions, look whether they repeat, and inject faults, without a model; "
        "exit status 1 if it does not pass"
    )
    sub = command("test", env_test, about, group)
    _takes_environment(sub)
    sub.add_argument(
        "--say", nargs="+", metavar="TEXT", help="completions, one a turn, in place of odd ones"
    )
    sub.add_argument(
        "--policy",
        metavar="FILE.py:NAME",
        help="a function from the messages to a text or message",
    )
    sub.add_argument("--json", action="store_true", help="print one line of JSON")

    sub = command("play", env_play, "be the policy of an environment, in the terminal", group)
    _takes_environment(sub)
    sub.add_argument(
        "--seed", type=size, default=0, metavar="N", help="of the episode (default 0)"
    )


def _takes_environment(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "environment",
        metavar="ENVIRONMENT",
        help="a built-in name, package.module:object or file.py:object; '-' for --tools alone",
    )
    sub.add_argument(
        "params", nargs="*", metavar="key=value", help="parameters of the environment"
    )
    sub.add_argument(
        "--task",
        default="{}",
        metavar="JSON",
        help="the task: prompt, answer and columns; @FILE reads a file",
    )
    sub.add_argument(
        "--tools", nargs="+", default=[], metavar="NAME", help="as env.tools in a recipe"
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
