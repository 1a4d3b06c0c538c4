"""The commands `rlcore rewards ...`. Each gives the exit status: 0, or 1 where the reward it looked at did not pass."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from rlcore.cli.options import pair, parameters, seconds
from rlcore.terminal import make_console

console = make_console()


def rewards_list(arguments: argparse.Namespace) -> int:
    from rlcore.scoring.kit import describe_rewards, markdown

    if arguments.markdown:
        print(markdown(describe_rewards()), end="")
        return 0
    table = Table("name", "source", "signature", "what")
    for row in describe_rewards():
        table.add_row(row.name, row.source, escape(row.signature), escape(row.summary))
    console.print(table)
    return 0


def rewards_new(arguments: argparse.Namespace) -> int:
    from rlcore.scoring.kit import write_template

    reward, cases = write_template(arguments.file)
    print(f"wrote {reward} and {cases}; next: rlcore rewards test {reward} --cases {cases}")
    return 0


def rewards_test(arguments: argparse.Namespace) -> int:
    from rlcore.scoring.kit import examine

    found = examine(
        arguments.reward,
        _cases(arguments),
        parameters(arguments.params),
        deadline_s=arguments.deadline,
    )
    if arguments.json:
        print(json.dumps(found.as_dict()))
        return int(bool(found.problems))
    table = Table("completion", "status", "value", "expected", "ms", "reason")
    shown = (
        found.cases
        if len(found.cases) <= 20
        else [trial for trial in found.cases if trial.right is False]
    )
    for trial in [*shown, *found.faults]:
        expected = (
            ""
            if trial.right is None
            else f"{trial.case.expected:g}: {'yes' if trial.right else 'NO'}"
        )
        name = trial.name if trial in shown else f"fault: {trial.name}"
        _add(table, name, trial.verdict, expected, trial.seconds)
    for trial in found.process:
        pool = (
            "contained"
            if trial.contained
            else f"NOT CONTAINED: {trial.workers} workers came back"
        )
        _add(table, f"process: {trial.name}", trial.verdict, pool, trial.seconds)
    console.print(table)
    if found.accuracy is not None:
        print(f"accuracy {found.accuracy:.4g} on {len(found.cases)} cases")
    print(
        "milliseconds per completion: "
        + ", ".join(f"{name} {value:.3g}" for name, value in found.milliseconds.items())
    )
    for problem in found.problems:
        print(f"problem: {problem}")
    return int(bool(found.problems))


def rewards_probe(arguments: argparse.Namespace) -> int:
    from rlcore.scoring.kit import probe

    results = probe(
        arguments.reward,
        _cases(arguments),
        parameters(arguments.params),
        deadline_s=arguments.deadline,
    )
    earned = [result.name for result in results if result.earned]
    if arguments.json:
        print(
            json.dumps(
                {
                    "reward": arguments.reward,
                    "earned": earned,
                    "probes": [asdict(result) for result in results],
                }
            )
        )
        return int(bool(earned))
    table = Table("exploit", "earned credit", "values", "completion")
    for result in results:
        values = ", ".join(
            status if value is None else f"{value:g}"
            for value, status in zip(result.values, result.statuses, strict=True)
        )
        credit = f"YES, on {result.earned} of {result.tasks} tasks" if result.earned else "no"
        table.add_row(result.name, credit, values, escape(repr(result.completion[:70])))
    console.print(table)
    if not results[0].tasks:
        print(
            "a right answer earns no more than a wrong one here: no exploit counts; with --cases, what is right is yours to say"
        )
    print(
        f"{len(earned)} of {len(results)} exploits earned credit{': ' if earned else ''}{', '.join(earned)}"
    )
    return int(bool(earned))


def rewards_compare(arguments: argparse.Namespace) -> int:
    from rlcore.scoring.kit import compare, page, read_cases

    where = dict(pair(item) for item in arguments.where)
    cases = read_cases(arguments.cases, where)
    result = compare(
        arguments.reward, arguments.other, cases, by=arguments.by, deadline_s=arguments.deadline
    )
    if arguments.html:
        arguments.html.write_text(page(result), encoding="utf-8")
    worse = sum(group.right_right for group in result.groups)
    if arguments.json:
        print(json.dumps(result.as_dict()))
        return int(bool(worse))
    summary = Table(
        "group", "cases", "differ", f"only {result.left} right", f"only {result.right} right"
    )
    for group in result.groups:
        counts = (group.cases, group.differ, group.left_right, group.right_right)
        summary.add_row(escape(group.group), *map(str, counts))
    console.print(summary)
    table = Table("group", "completion", "answer", "expected", result.left, result.right)
    for row in result.disagreements:
        texts = (repr(row.case.completion[-60:]), repr(str(row.case.answer)[:40]))
        expected = "" if row.case.expected is None else f"{row.case.expected:g}"
        values = (_value(row.left), _value(row.right))
        table.add_row(escape(row.group), *map(escape, texts), expected, *values)
    console.print(table)
    print(f"they differ on {len(result.disagreements)} of {len(cases)} cases")
    return int(bool(worse))


def _value(verdict: Any) -> str:
    return verdict.status if verdict.value is None else f"{verdict.value:g}"


def add_commands(
    group: argparse._SubParsersAction, command: Callable[..., argparse.ArgumentParser]
) -> None:
    """Declare the verbs of `rlcore rewards`. command: (name, function, about, group) -> its parser."""
    sub = command("list", rewards_list, "all rewards that can be named", group)
    sub.add_argument(
        "--markdown",
        action="store_true",
        help="one page with their docstrings, parameters and examples",
    )

    sub = command(
        "new", rewards_new, "write a first reward file, with doc, cases and a test", group
    )
    sub.add_argument(
        "file", type=Path, metavar="FILE.py", help="where to; the function gets the file's name"
    )

    about = "run a reward on cases, hostile completions and a dying process, without a model; exit status 1 if it does not pass"
    _takes_reward(command("test", rewards_test, about, group))
    about = (
        "try cheap exploits on a reward and say which earn credit; exit status 1 if any does"
    )
    _takes_reward(command("probe", rewards_probe, about, group))

    about = (
        "score cases with two rewards and show where they differ; exit status 1 if only the "
        "second one is right anywhere"
    )
    _takes_two(command("compare", rewards_compare, about, group))


def _takes_two(sub: argparse.ArgumentParser) -> None:
    named = "as of `test`; rewards.math_plain:math_verify is math-verify, trl.rewards:accuracy_reward TRL's"
    sub.add_argument("reward", metavar="A", help=named)
    sub.add_argument("other", metavar="B", help=named)
    sub.add_argument(
        "--cases",
        type=Path,
        required=True,
        metavar="FILE.jsonl",
        help="rows of {completion, answer, expected}; other keys are columns",
    )
    sub.add_argument(
        "--where",
        nargs="*",
        default=[],
        metavar="key=value",
        help="only rows with these values",
    )
    sub.add_argument("--by", default="cause", metavar="KEY", help="groups rows (default cause)")
    sub.add_argument("--html", type=Path, metavar="FILE.html", help="also write a page")
    _takes_deadline_and_json(sub)


def _takes_reward(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "reward",
        metavar="REWARD",
        help="name, package.module:function, file.py:function or file.py",
    )
    sub.add_argument("params", nargs="*", metavar="key=value", help="parameters of the reward")
    sub.add_argument(
        "--cases",
        type=Path,
        metavar="FILE.jsonl",
        help="rows of {completion, answer, expected}; other keys are columns",
    )
    _takes_deadline_and_json(sub)


def _takes_deadline_and_json(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--deadline",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="for one call (default 10)",
    )
    sub.add_argument("--json", action="store_true", help="print one line of JSON")


def _cases(arguments: argparse.Namespace) -> list[Any]:
    from rlcore.scoring.kit import read_cases

    return read_cases(arguments.cases) if arguments.cases else []


def _add(table: Table, name: str, verdict: Any, expected: str, seconds: float) -> None:
    value = "" if verdict.value is None else f"{verdict.value:g}"
    table.add_row(
        name,
        verdict.status,
        value,
        expected,
        f"{seconds * 1000:.1f}",
        escape(verdict.reason[:80]),
    )
