"""`rlcore push`: a checkpoint with its model card, to a folder or to the hub."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Declare the command."""
    sub = command("push", push, "write a checkpoint and its model card to a folder or the hub")
    sub.add_argument("run", type=Path, metavar="RUN", help="a run folder")
    sub.add_argument(
        "target",
        metavar="REPO_OR_FOLDER",
        help="owner/name (or hf://owner/name): a repository of the hub; anything else: a folder",
    )
    sub.add_argument(
        "--checkpoint", metavar="NAME", help="for example step_000050 (default: the last one)"
    )
    sub.add_argument(
        "--weights",
        default="policy",
        choices=["policy", "ema", "adapter"],
        help="policy: the model, with an adapter merged into it (default); ema: its averaged "
        "weights; adapter: the adapter alone",
    )
    sub.add_argument(
        "--private", action="store_true", help="make a new repository of the hub a private one"
    )


def push(arguments: argparse.Namespace) -> None:
    from rlcore.analysis.push import push

    print(
        push(
            arguments.run,
            arguments.target,
            checkpoint=arguments.checkpoint,
            weights=arguments.weights,
            private=arguments.private,
        )
    )
