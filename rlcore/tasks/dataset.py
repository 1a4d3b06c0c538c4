"""Tasks from the rows of a table: which column, or which text around columns, becomes the prompt, the answer and so on."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlcore.errors import TaskError
from rlcore.tasks.lazy import LazyTasks
from rlcore.tasks.table import open_table
from rlcore.types import Message, Task

FIELDS = ("prompt", "answer", "category", "demonstration", "id")
_BRACES = re.compile(r"\{\{|\}\}|\{([^{}\s][^{}]*)\}")
_CHECK_BATCH = 1000


def dataset(
    path: str,
    *,
    split: str = "train",
    subset: str | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    shuffle_seed: int | None = None,
    answer_after: str | None = None,
) -> Sequence[Task]:
    """Tasks from a .jsonl, .json (both also .gz) or .parquet file, a folder or glob of them, or a hub data set.

    columns: where the fields prompt, answer, category, demonstration and id come from. A value is a column's name, or a template
    with columns in braces: `{"prompt": "Problem: {Body} {Question}", "answer": "Answer"}`; `{{` and `}}` are literal braces
    and `{}` is left alone. A field that is not named comes from the column of its own name, if there is one; only a prompt
    is required. The prompt may be a column of chat messages. Every column also goes to `Task.columns`.
    answer_after: keep the text after the last such marker of the answer, "####" for GSM8K.
    limit, shuffle_seed: the first `limit` rows after shuffling. Ids are `file/row` by the unshuffled row, counted from 0.

    Raises `TaskError` for data that cannot be read, an unknown column, an empty set, and a row without a prompt.
    """
    table = open_table(path, split=split, subset=subset)
    rows = _Rows(path, table.column_names, columns or {}, answer_after)
    order = list(range(len(table)))
    if shuffle_seed is not None:
        random.Random(shuffle_seed).shuffle(order)
    if limit is not None:
        if limit < 1:
            raise TaskError(f"limit={limit} leaves no task of {path}: give 1 or more")
        order = order[:limit]
    try:
        note = rows.check(table, set(order))
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{path} holds text that is not UTF-8 ({error}): write it again as UTF-8"
        ) from error
    return LazyTasks(
        len(order),
        lambda i: rows.task(order[i], table[order[i]]),
        column=lambda name: rows.column(table, order, name),
        note=note,
    )


class _Rows:
    """Turns rows of one table into tasks."""

    def __init__(
        self,
        path: str,
        names: Sequence[str],
        columns: Mapping[str, str],
        answer_after: str | None,
    ) -> None:
        for field in columns:
            if field not in FIELDS:
                raise TaskError(f"columns: a task has no field {field!r}{_near(field, FIELDS)}")
        self._path, self._names, self._answer_after = path, names, answer_after
        self._stem = Path(path).name.partition(".")[0] or path
        present = {"prompt", *columns, *names}
        self._sources = {
            field: columns.get(field, field) for field in FIELDS if field in present
        }
        self._used = {
            field: self._columns_of(field, source) for field, source in self._sources.items()
        }
        if answer_after == "":
            raise TaskError(
                "answer_after is empty: name the marker before the answer, or leave it out"
            )
        if answer_after is not None and "answer" not in self._sources:
            raise TaskError(
                f"answer_after={answer_after!r} needs an answer: name its column in `columns` ({path})"
            )

    def task(self, number: int, row: Mapping[str, Any]) -> Task:
        """The task of row `number`."""
        fields = {field: self._value(field, row, number) for field in self._sources}
        return Task(
            id=str(fields.get("id", f"{self._stem}/{number}")),
            prompt=self._prompt(fields["prompt"], number),
            answer=self._answer(fields.get("answer"), number),
            category=str(fields.get("category", "all")),
            demonstration=self._demonstration(fields.get("demonstration"), number),
            columns=dict(row),
        )

    def column(self, table: Any, order: Sequence[int], name: str) -> Sequence[Any] | None:
        """One column, or the category, of every chosen row; None if it is no plain column."""
        source = self._sources.get("category", name) if name == "category" else name
        if source not in self._names:
            return ["all"] * len(order) if source == "category" else None
        values = table[source][:]
        return [str(values[i]) if name == "category" else values[i] for i in order]

    def check(self, table: Any, chosen: set[int]) -> str:
        """Make every chosen task once, from the columns its fields use, so that a bad row is found before the run starts.

        Returns a note on rows without an answer among others with one, or nothing.
        """
        needed = list(dict.fromkeys(name for names in self._used.values() for name in names))
        seen: dict[str, int] = {}
        unanswered: list[int] = []
        for start, batch in enumerate(
            table.select_columns(needed).iter(batch_size=_CHECK_BATCH)
        ):
            for offset, values in enumerate(
                zip(*(batch[name] for name in needed), strict=True)
            ):
                number = start * _CHECK_BATCH + offset
                if number in chosen:
                    task = self.task(number, dict(zip(needed, values, strict=True)))
                    if seen.setdefault(task.id, number) != number:
                        raise TaskError(
                            f"{self._path}: rows {seen[task.id] + 1} and {number + 1} have the same id {task.id!r}"
                        )
                    if task.answer in (None, ""):
                        unanswered.append(number)
        if not unanswered or len(unanswered) == len(chosen):
            return ""
        first = self._row(unanswered[0])
        return f"{len(unanswered):,} of {len(chosen):,} tasks have no answer, the first {first}"

    def _columns_of(self, field: str, source: str) -> list[str]:
        used = (
            [source]
            if source in self._names
            else [match for match in _BRACES.findall(source) if match]
        )
        if not used:
            raise self._no_column(field, source)
        for name in used:
            if name not in self._names:
                raise self._no_column(field, name)
        return used

    def _no_column(self, field: str, name: str) -> TaskError:
        hint = ": say where it is with `columns`" if field == name else ""
        return TaskError(
            f"{self._path} has no column {name!r} for the {field}{hint}{_near(name, self._names)}"
        )

    def _row(self, number: int) -> str:
        """A row as sentences name it, counted from one as lines are."""
        return f"{self._path}, row {number + 1}"

    def _value(self, field: str, row: Mapping[str, Any], number: int) -> Any:
        source = self._sources[field]
        if source in self._names:
            return row[source]
        for name in self._used[field]:
            if row[name] is None:
                raise TaskError(
                    f"{self._row(number)}: column {name!r}, part of the {field}, is empty"
                )
        literal = {"{{": "{", "}}": "}"}
        return _BRACES.sub(lambda match: literal.get(match[0]) or str(row[match[1]]), source)

    def _prompt(self, value: Any, number: int) -> str | list[Message]:
        if isinstance(value, str) and value.strip():
            return value
        if (
            isinstance(value, list)
            and value
            and all(
                isinstance(message, Mapping)
                and message.get("role")
                and isinstance(message.get("content"), str)
                for message in value
            )
        ):
            return [
                {key: text for key, text in message.items() if text is not None}
                for message in value
            ]
        what = (
            "is empty"
            if value is None or value in ("", []) or str(value).isspace()
            else f"is neither text nor a list of messages with role and content but of type {type(value).__name__}"
        )
        raise TaskError(
            f"{self._row(number)}: the prompt (from {self._sources['prompt']!r}) {what}"
        )

    def _answer(self, value: Any, number: int) -> Any:
        if self._answer_after is None:
            return value
        _, marker, rest = str(value).rpartition(self._answer_after)
        if not marker or not rest.strip():
            raise TaskError(
                f"{self._row(number)}: the answer has nothing after a {self._answer_after!r}"
            )
        return rest.strip()

    def _demonstration(self, value: Any, number: int) -> str | None:
        if value is None or isinstance(value, str):
            return value
        raise TaskError(
            f"{self._row(number)}: the demonstration must be text, not of type {type(value).__name__}"
        )


def _near(name: str, known: Sequence[str]) -> str:
    lowered = {other.lower(): other for other in known}
    near = [
        lowered[match]
        for match in difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.5)
    ]
    return (
        f"; did you mean {' or '.join(map(repr, near))}?"
        if near
        else f"; there are: {', '.join(map(repr, known))}"
    )
