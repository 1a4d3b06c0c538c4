"""Streams documents from text, JSON Lines and Parquet files, the hub or a function."""

from __future__ import annotations

import glob
import gzip
import inspect
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rlcore.errors import TaskError, first_line
from rlcore.plugin import did_you_mean, find

TEXT = (".txt", ".txt.gz", ".md", ".tex", ".rst")
LINES = (".jsonl", ".jsonl.gz")
SUFFIXES = (*TEXT, *LINES, ".parquet")
BATCH = 256
"""Parquet rows decoded at a time."""


class Row(NamedTuple):
    """One document as it was found. `text` is None where a row cannot be read or holds no text."""

    id: str
    text: str | None


class Source(NamedTuple):
    """Where documents come from: files here, a data set of the hub, or `package.module:function`, which gives texts."""

    path: str
    column: str = "text"
    split: str = "train"
    subset: str | None = None

    def files(self) -> list[Path]:
        """The local files in name order; none for the hub or a function.

        Raises `TaskError` for a folder without any.
        """
        place = Path(self.path).expanduser()
        if place.is_file():
            return [place]
        if place.is_dir() or glob.has_magic(self.path):
            if place.is_dir():
                candidates = list(place.rglob("*"))
            else:
                candidates = [Path(name) for name in glob.glob(str(place), recursive=True)]
            files = []
            for file in sorted(candidates):
                if file.is_file() and file.name.endswith(SUFFIXES):
                    files.append(file)
            if not files:
                raise TaskError(
                    f"{self.path} holds no text: the kinds read are {', '.join(SUFFIXES)}"
                )
            return files
        looks_local = self.path.startswith(("/", "./", "../", "~")) or self.path.endswith(
            SUFFIXES
        )
        if looks_local and not self.makes:
            neighbours = [file.name for file in place.parent.glob("*")]
            raise TaskError(
                f"there is no corpus {self.path}{did_you_mean(place.name, neighbours)}"
            )
        return []

    @property
    def makes(self) -> bool:
        """Whether the path names a function that makes the texts."""
        return ":" in self.path and not Path(self.path).expanduser().exists()

    def fingerprint(self) -> list[Any]:
        """Changes when the documents may have: names, sizes and times of the files."""
        files: list[Any] = [
            (str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns)
            for file in self.files()
        ]
        if self.makes:
            code = Path(inspect.getsourcefile(self._function()) or "")
            name = self.path.rpartition(":")[2]  # the same texts, wherever their file lies
            files = [(name, code.read_text(encoding="utf-8"))]
        return [self.column, files or [self.path, self.split, self.subset]]

    def rows(self, *, skip: int = 0, max_chars: int = 30_000) -> Iterator[Row]:
        """Rows in order, from number `skip` on.

        A text file is cut into rows of at most `max_chars` at paragraph breaks.
        """
        if self.makes:
            made = (
                Row(f"{self.path.rpartition(':')[2]}/{i}", text)
                for i, text in enumerate(self._function()())
            )
            return islice(made, skip, None)
        files = self.files()
        if not files:
            return _hub(self, skip)
        return islice(
            (row for file in files for row in self._file(file, max_chars)), skip, None
        )

    def _function(self) -> Callable[[], Iterable[str]]:
        return find(self.path, {}, what="corpus", error=TaskError)

    def _file(self, file: Path, max_chars: int) -> Iterator[Row]:
        name = file.name
        try:
            if name.endswith(TEXT):
                yield from (
                    Row(f"{name}/{i}", text) for i, text in enumerate(_text(file, max_chars))
                )
            elif name.endswith(LINES):
                yield from _lines(file, self.column)
            elif name.endswith(".parquet"):
                yield from _parquet(file, self.column)
            else:
                raise TaskError(
                    f"{file} is of an unknown kind; supported are: {', '.join(SUFFIXES)}"
                )
        except TaskError:
            raise
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise TaskError(f"{file} cannot be read: {first_line(error)}") from error


def _open(file: Path) -> Any:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", encoding="utf-8")
    return open(file, encoding="utf-8")


def _text(file: Path, max_chars: int) -> Iterator[str]:
    """A file in pieces that end at a blank line where there is one; a line longer than a piece is cut."""
    held, size = [], 0
    with _open(file) as stream:
        while line := stream.readline(max_chars):
            if held and (
                size + len(line) > max_chars or (not line.strip() and size > max_chars // 2)
            ):
                yield "".join(held)
                held, size = [], 0
            held.append(line)
            size += len(line)
    if held:
        yield "".join(held)


def _lines(file: Path, column: str) -> Iterator[Row]:
    with _open(file) as stream:
        for number, line in enumerate(stream):
            text = None
            try:
                row = json.loads(line)
                text = row.get(column) if isinstance(row, dict) else None
            except (ValueError, RecursionError):
                pass
            yield Row(f"{file.name}/{number}", text if isinstance(text, str) else None)


def _parquet(file: Path, column: str) -> Iterator[Row]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(file) as table:
        if column not in table.schema_arrow.names:
            raise TaskError(
                f"{file} has no column {column!r}; there are: {', '.join(table.schema_arrow.names)}"
            )
        number = 0
        for batch in table.iter_batches(batch_size=BATCH, columns=[column]):
            for text in batch.column(0).to_pylist():
                yield Row(f"{file.name}/{number}", text if isinstance(text, str) else None)
                number += 1


def _hub(source: Source, skip: int) -> Iterator[Row]:
    import datasets

    try:
        rows = datasets.load_dataset(
            source.path, source.subset, split=source.split, streaming=True
        ).skip(skip)
        for number, row in enumerate(rows, start=skip):
            text = row.get(source.column)
            yield Row(f"{source.path}/{number}", text if isinstance(text, str) else None)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise TaskError(
            f"{source.path} is neither a local file nor a data set of the hub: {first_line(error)}"
        ) from error
