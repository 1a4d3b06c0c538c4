"""The commands that look at what a run did: `rlcore report`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from rlcore.cli.options import size

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
        type=size,
        default=DEFAULT_PORT,
        metavar="N",
        help=f"with --serve (default {DEFAULT_PORT}; 0: any free one)",
    )


def report(arguments: argparse.Namespace) -> None:
    if arguments.serve:
        from rlcore.analysis.report.serve import serve

        serve(arguments.runs, port=arguments.port, say=lambda text: print(text, flush=True))
        return
    from rlcore.analysis.report.page import Report

    out = arguments.out or arguments.runs[0] / "report.html"
    Report(arguments.runs, out).write()
    print(out)
