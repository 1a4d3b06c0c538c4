"""The commands that look at what a run did: `rlcore report`, `rollouts`, `watch` and `diagnose`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rlcore.cli.options import count, free_or_port
from rlcore.errors import RunError
from rlcore.terminal import make_console, visible

DEFAULT_PORT = 8600


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the commands."""
    sub = command("report", report, "write an HTML page of a run, or of several side by side")
    sub.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    sub.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="where the page goes (default: report.html in the first run's folder)",
    )
    sub.add_argument(
        "--serve",
        action="store_true",
        help="serve the page on this machine and keep it up to date until ctrl-C",
    )
    sub.add_argument(
        "--port",
        type=free_or_port,
        default=DEFAULT_PORT,
        metavar="N",
        help=f"with --serve (default {DEFAULT_PORT}; 0: any free one)",
    )

    _add_rollouts(command)

    sub = command("watch", watch, "follow a run on the terminal until it ends")
    sub.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    sub.add_argument("--once", action="store_true", help="print where it stands, and end")

    sub = command(
        "diagnose", diagnose, "say what is wrong with the training of a run, if anything"
    )
    sub.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    sub.add_argument("--json", action="store_true", help="print one line of JSON")


def _add_rollouts(command: Callable[..., argparse.ArgumentParser]) -> None:
    sub = command("rollouts", rollouts, "print completions of a step with their verdicts")
    sub.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    sub.add_argument("--step", type=count, metavar="N", help="default: the last one")
    sub.add_argument(
        "--eval",
        nargs="?",
        const="",
        metavar="NAME",
        help="completions of evaluations: of the last one, or of this eval stage or task set",
    )
    sub.add_argument(
        "--failed",
        action="store_true",
        help="only those without a score, or with a first reward below 0.5",
    )
    sub.add_argument("--category", default="", metavar="NAME", help="only of this category")
    sub.add_argument(
        "--status",
        default="",
        choices=["ok", "wrong-format", "unscorable", "timed-out", "crashed"],
        help="only with this status of the verdict",
    )
    sub.add_argument(
        "--truncated", action="store_true", help="only those cut at sampling.max_tokens"
    )
    sub.add_argument(
        "--search",
        default="",
        metavar="TEXT",
        help="only where prompt, completion, answer or reason hold it",
    )
    sub.add_argument(
        "--limit", type=count, default=8, metavar="N", help="print this many (default 8)"
    )


def report(arguments: argparse.Namespace) -> None:
    if arguments.serve:
        from rlcore.analysis.report.serve import serve

        serve(arguments.runs, port=arguments.port, say=lambda text: print(text, flush=True))
        return
    from rlcore.analysis.report.page import Report

    out = arguments.out or arguments.runs[0] / "report.html"
    if out.is_dir():
        raise RunError(
            f"--out {out} is a folder: name the file of the page, such as {out / 'report.html'}"
        )
    Report(arguments.runs, out).write()
    print(out)


def rollouts(arguments: argparse.Namespace) -> None:
    from rlcore.analysis.rollout_text import Choice, chosen_rows, shown
    from rlcore.run.folder import RunFolder

    choice = Choice(
        step=arguments.step,
        evaluation=arguments.eval,
        failed=arguments.failed,
        category=arguments.category,
        status=arguments.status,
        finish="length" if arguments.truncated else "",
        search=arguments.search,
    )
    step, rows = chosen_rows(RunFolder.of_run(arguments.run), choice)
    console = make_console()
    console.print(shown(rows[: arguments.limit], step), highlight=False, soft_wrap=True)
    console.print(f"\n{min(len(rows), arguments.limit)} of {len(rows)} completions")


def watch(arguments: argparse.Namespace) -> None:
    from rlcore.analysis.watch import watch

    watch(arguments.run, make_console(), once=arguments.once)


def diagnose(arguments: argparse.Namespace) -> int:
    """1 if something is wrong."""
    from rlcore.analysis.diagnose import diagnose, steps_of, unjudged

    rows = steps_of(arguments.run)
    findings = diagnose(rows)
    if arguments.json:
        print(json.dumps([asdict(finding) | {"link": finding.link} for finding in findings]))
        return int(bool(findings))
    for finding in findings:
        steps = f"steps {finding.first} to {finding.last}"
        print(visible(f"{finding.title} ({finding.stage}, {steps})"))
        print(visible(f"  {finding.sentence}"))
        print(f"  {finding.link}")
    if not findings:
        print(f"nothing is wrong with {arguments.run}, as far as its metrics say")
    if few := unjudged(rows):
        print(few)
    return int(bool(findings))
