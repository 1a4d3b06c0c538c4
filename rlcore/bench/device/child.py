"""The process that runs a section's cases, and notes the beginning and the end of each in a file that survives it."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcore.bench.device.case import ABSENT, FAILED, GREEN, Case, NotHere, Section, machine

DEVICE_IS_BROKEN = 77
"""Exit status after a fault that leaves CUDA unusable in this process: what is left needs a new one."""


def main(argv: Sequence[str]) -> int:
    """Run the cases of a section that are not in `--done`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("module")
    parser.add_argument("events", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--done", type=json.loads, default=[])
    arguments = parser.parse_args(argv)
    section = Section(arguments.name, arguments.module, 0, "")
    with open(arguments.events, "a") as file:
        note = _Notes(file)
        note({"machine": machine()})
        cases = list(section.cases(arguments.tiny))
        note({"cases": [case.name for case in cases]})
        for case in cases:
            if case.name in arguments.done:
                continue
            note({"begin": case.name, "seconds": case.seconds})
            note({"end": case.name, **outcome(case)})
            if not _device_works():
                return DEVICE_IS_BROKEN
    return 0


class _Notes:
    """Lines of JSON, each on the disk before the next thing is done."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __call__(self, event: dict[str, Any]) -> None:
        self._file.write(json.dumps(event) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def outcome(case: Case) -> dict[str, Any]:
    """What came of a case: its status, seconds, and its values or why there are none."""
    started = time.monotonic()
    result: dict[str, Any] = {"status": GREEN, "needs": case.needs.words()}
    try:
        missing = case.needs.missing()
        if missing is not None:
            raise NotHere(missing)
        result["values"] = case.run()
        json.dumps(result)
    except NotHere as reason:
        result = {**result, "status": ABSENT, "reason": str(reason)}
    except Exception:
        result = {**result, "status": FAILED, "error": traceback.format_exc(limit=-12)}
        result.pop("values", None)
    return {**result, "seconds_taken": round(time.monotonic() - started, 2)}


def _device_works() -> bool:
    """False after an illegal access or the like; memory that the case left is given back."""
    import torch

    if not torch.cuda.is_available():
        return True
    gc.collect()
    try:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
    except RuntimeError:
        return False
    return True


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # At once: libraries that hang while they end must not cost the time of the next section.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
