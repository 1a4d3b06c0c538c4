"""The data of an environment of verifiers, as tasks for the environment `verifiers`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rlcore.errors import TaskError
from rlcore.types import Task

DEADLINE_S = 600.0
_WRITE = (
    "import sys; sys.path += [sys.argv[1], '']\n"
    "from rlcore.env.adapters.verifiers import write_rows\n"
    "from rlcore.errors import RlcoreError\n"
    "try: write_rows(sys.argv[2])\n"
    "except RlcoreError as error: print(error, file=sys.stderr); sys.exit(3)"
)


def verifiers(
    env: str,
    *,
    params: Mapping[str, Any] | None = None,
    python: str | None = None,
    split: Literal["train", "eval"] = "train",
    size: int | None = None,
) -> Sequence[Task]:
    """Tasks of an environment of verifiers, in the order of its data.

    env, params: as of the environment `verifiers`. python: the interpreter that has it. split: its training or its evaluation data. size: the
    first so many. Raises `TaskError` if they cannot be had.
    """
    root = str(Path(__file__).resolve().parents[2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        request = {"env": env, "params": dict(params or {}), "split": split, "size": size}
        command = [python or sys.executable, "-c", _WRITE, root]
        command.append(json.dumps({**request, "path": str(path)}))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
        except OSError as error:
            raise TaskError(f"the interpreter of the verifiers tasks: {error}") from None
        except subprocess.TimeoutExpired:
            raise TaskError(
                f"verifiers did not give the data of {env!r} in {DEADLINE_S:g} s"
            ) from None
        if done.returncode:
            last = (done.stderr.strip().split("\n") or [""])[-1]
            raise TaskError(
                f"the tasks of the verifiers environment {env!r} cannot be had: {last}"
            )
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [_task(env, row) for row in rows]


def _task(env: str, row: dict[str, Any]) -> Task:
    rest = {key: value for key, value in row.items() if key not in ("prompt", "answer")}
    return Task(
        id=f"verifiers/{env.rpartition('/')[2]}/{row['example_id']}",
        prompt=[_message(message) for message in row["prompt"]],
        answer=row.get("answer", ""),
        category=str(row.get("task") or env.rpartition(":")[2]),
        columns={"verifiers_row": rest},
    )


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if value is not None}
