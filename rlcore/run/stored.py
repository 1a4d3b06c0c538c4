"""Rollouts on disk, one JSON object a completion: written by `rl` and `sample` stages, read by `offline` and `prefer` stages.

A row holds what `rlcore.run.metrics.rollout_rows` writes. To learn from completions of elsewhere, write rows with at least `task`,
`prompt`, `text`, `value`, `token_ids` and `mask`; `logprobs: null` says that nobody recorded the log-probabilities of the policy
that wrote them. `steps: {"spans": [[start, end], ...], "values": [Q_0, ...]}` is `rlcore.types.StepValues`, where known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlcore.errors import RunError
from rlcore.run.folder import read_rows
from rlcore.types import Episode, Group, Rollout, Span, StepValues, Task, Verdict

PROCESS_FILE = re.compile(r"rank\d+\.jsonl")
"""What a process of a sample stage writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """The completions of one task in one file."""

    group: Group
    """With the step values of the rows that have them."""
    unrecorded: frozenset[str] = field(default_factory=frozenset)
    """Ids of the rollouts without the log-probabilities of their policy; their `logprobs` are zeros that mean nothing."""


def stored_files(path: Path) -> list[Path]:
    """The jsonl files at `path`, a file or a folder. Raises `RunError` if there is none."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise RunError(
            f"there are no stored rollouts at {path}: name a sample stage before this one, or a file or folder of jsonl"
        )
    return files


def read_stored(path: Path) -> list[Stored]:
    """The completions at `path`, a file or a folder of jsonl, by task and file. Raises `RunError`.

    The files of a sample stage's processes are read as one, in the order of the tasks, so that what is learned from them does not
    depend on how many there were.
    """
    found: list[Stored] = []
    places: list[Any] = []
    files = stored_files(path)
    for file in files:
        by_task: dict[str, list[dict[str, Any]]] = {}
        for number, row in enumerate(read_rows(file), start=1):
            try:
                by_task.setdefault(row["task"], []).append(row)
            except (KeyError, TypeError):
                raise _bad_row(file, number, "has no 'task'") from None
        for rows in by_task.values():
            try:
                found.append(_stored(rows, file.stem))
                places.append(rows[0].get("index"))
            except (KeyError, TypeError, ValueError) as error:
                raise _bad_row(
                    file,
                    None,
                    f"of task {rows[0]['task']!r} cannot be read ({type(error).__name__}: {error})",
                ) from None
    if not found:
        raise RunError(f"the stored rollouts at {path} are empty")
    of_processes = all(PROCESS_FILE.fullmatch(file.name) for file in files)
    if of_processes and all(isinstance(place, int) for place in places):
        return [found[i] for i in sorted(range(len(found)), key=places.__getitem__)]
    return found


def _stored(rows: list[dict[str, Any]], file: str) -> Stored:
    first = rows[0]
    task = Task(
        id=first["task"],
        prompt=first["prompt"],
        answer=first.get("answer"),
        category=first.get("category", "all"),
    )
    rollouts = [
        _rollout(row, f"{file}/{row.get('id', number)}") for number, row in enumerate(rows)
    ]
    unrecorded = frozenset(
        rollout.id
        for rollout, row in zip(rollouts, rows, strict=True)
        if row.get("logprobs") is None
    )
    steps = {
        rollout.id: StepValues(
            rollout_id=rollout.id,
            spans=[Span(*span) for span in row["steps"]["spans"]],
            values=row["steps"]["values"],
        )
        for rollout, row in zip(rollouts, rows, strict=True)
        if row.get("steps")
    }
    group = Group(
        task=task, rollouts=rollouts, verdicts=list(map(_verdict, rows)), step_values=steps
    )
    return Stored(group=group, unrecorded=unrecorded)


def _rollout(row: Mapping[str, Any], id: str) -> Rollout:
    return Rollout.from_tokens(
        id=id,  # an rl run uses the names of a task's completions again in every step
        task_id=row["task"],
        token_ids=row["token_ids"],
        mask=[bool(wrote) for wrote in row["mask"]],
        logprobs=row["logprobs"]
        if row.get("logprobs") is not None
        else [0.0] * len(row["mask"]),
        text=row["text"],
        finish=row.get("finish", "stop"),
        versions=_per_token(row),
        temperature=row.get("temperature", 1.0),
        support=row.get("support"),
        prompts=row.get("prompt_starts", (0,)),
        episode=Episode(**row["episode"]) if row.get("episode") else None,
    )


def _per_token(row: Mapping[str, Any]) -> list[int]:
    """Version of every token, 0 where the row does not say; rows hold runs of equal ones, `[version, tokens]`."""
    written = iter([version for version, n in row.get("versions") or () for _ in range(n)])
    return [next(written, 0) if wrote else 0 for wrote in row["mask"]]


def _verdict(row: Mapping[str, Any]) -> Verdict:
    status = row.get("status", "ok" if row["value"] is not None else "unscorable")
    return Verdict(
        value=row["value"],
        status=status,
        parts=row.get("parts", {}),
        reason=row.get("reason", ""),
    )


def _bad_row(file: Path, number: int | None, what: str) -> RunError:
    where = f"row {number}" if number else "a row"
    return RunError(
        f"{file}: {where} {what}; rows need task, prompt, text, value, token_ids and mask"
    )
