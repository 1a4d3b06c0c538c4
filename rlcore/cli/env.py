"""The commands `rlcore env ...`: test an environment without a model, or be its policy."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from rlcore.cli.env_inputs import spec_of, takes_environment, task_of
from rlcore.cli.options import size
from rlcore.terminal import make_console, visible

if TYPE_CHECKING:
    from rlcore.env.kit import Examination
    from rlcore.types import Message

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
        spec_of(arguments),
        task_of(arguments),
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
    for note in result.notes:
        print(visible(f"note: {note}"))
    for problem in result.problems:
        print(visible(f"problem: {problem}"))


def env_play(arguments: argparse.Namespace) -> int:
    """The person at the terminal is the policy."""
    from rlcore.env.kit import converse
    from rlcore.env.pool import EnvironmentPool, Failed

    task = task_of(arguments)
    with EnvironmentPool(
        spec_of(arguments), workers=1, deadline_s=arguments.deadline, python=arguments.python
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


def add_commands(
    group: argparse._SubParsersAction, command: Callable[..., argparse.ArgumentParser]
) -> None:
    """Declare the verbs of `rlcore env`. command: (name, function, about, group) -> its parser."""
    about = (
        "play episodes of an environment with odd completions, look whether they repeat, and inject faults, without a model; "
        "exit status 1 if it does not pass"
    )
    sub = command("test", env_test, about, group)
    takes_environment(sub)
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
    takes_environment(sub)
    sub.add_argument(
        "--seed", type=size, default=0, metavar="N", help="of the episode (default 0)"
    )
