"""Starts `rlcore` and dies by SIGKILL at one call of `os.replace`, `os.fsync` or `shutil.rmtree` in `rlcore.run`.

    python tests/soak/killed_run.py POINT CALLS train RECIPE --resume

POINT is the number of such a call, with `half` before it for an `rmtree` that removes half of the files first, or
`none`. What each call was about is written to the file CALLS when the command ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALLS = {"replace": os, "fsync": os, "rmtree": shutil}


def main(point: str, calls_file: str, arguments: list[str]) -> int:
    calls: list[str] = []
    for name, module in CALLS.items():
        setattr(module, name, watched(getattr(module, name), name, calls, point))
    from rlcore.cli.main import main as command

    status = command(arguments)
    Path(calls_file).write_text(json.dumps(calls), encoding="utf-8")
    return status


def watched(
    call: Callable[..., Any], name: str, calls: list[str], point: str
) -> Callable[..., Any]:
    """`call`, which notes the calls from `rlcore.run` and dies at the one that is asked for."""

    def wrapper(*arguments: Any, **settings: Any) -> Any:
        frame = sys._getframe(1)
        if frame.f_globals.get("__name__", "").startswith("rlcore.run."):
            calls.append(f"{name} {role(frame, arguments[0])}")
            number = len(calls) - 1
            if name == "rmtree" and point == f"half{number}":
                remove_half(Path(arguments[0]))
            if point in (f"{number}", f"half{number}"):
                os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **settings)

    return wrapper


def role(frame: Any, argument: Any) -> str:
    """The functions that lead to a call, and the name of its file with numbers left out."""
    names = []
    while frame and frame.f_globals.get("__name__", "").startswith("rlcore.run."):
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    file = os.readlink(f"/proc/self/fd/{argument}") if isinstance(argument, int) else argument
    return f"{'<'.join(names)} {re.sub('[0-9]+', 'N', Path(file).name)}"


def remove_half(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files[::2]:
        path.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
