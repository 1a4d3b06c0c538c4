"""Opens task data as a table: local JSON Lines, JSON and Parquet files, or a data set of the Hugging Face hub."""

from __future__ import annotations

import glob
import gzip
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets

from rlcore.errors import TaskError, first_line
from rlcore.plugin import did_you_mean

BUILDERS = {
    ".jsonl": "json",
    ".json": "json",
    ".jsonl.gz": "json",
    ".json.gz": "json",
    ".parquet": "parquet",
}


def open_table(path: str, *, split: str, subset: str | None) -> datasets.Dataset:
    """The rows at `path`, in file order. Local files are read afresh each time: no cache can serve an older version.

    A file, or files matched by a glob, are the split that is asked for; slices such as "train[:100]" work. A folder and the
    hub follow the layout rules of the `datasets` library. Raises `TaskError`.
    """
    with _quiet():
        table = (
            _open_local(path, split, subset)
            if is_local(path)
            else _open_hub(path, split, subset)
        )
    if len(table) == 0:
        raise TaskError(f"{path} has no rows (split {split!r})")
    return table


def is_local(path: str) -> bool:
    """Whether `path` means local files rather than a hub name."""
    looks_local = (
        glob.has_magic(path)
        or path.startswith(("/", "./", "../", "~"))
        or _kind(path) is not None
    )
    return looks_local or Path(path).exists()


def _open_local(path: str, split: str, subset: str | None) -> datasets.Dataset:
    place = Path(path).expanduser()
    if subset is not None:
        raise TaskError(
            f"subset={subset!r} is for hub data sets; {path} is a local file or folder"
        )
    if place.is_dir():
        return _load(path, split, str(place))
    files = [str(place)] if place.is_file() else sorted(glob.glob(str(place), recursive=True))
    if not files:
        raise TaskError(
            f"there is no task file {path}{did_you_mean(place.name, [f.name for f in place.parent.glob('*')])}"
        )
    kinds = {_kind(file) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise TaskError(f"{path} must be files of one kind among {', '.join(BUILDERS)}")
    builder, data_files = str(kinds.pop()), {split.partition("[")[0]: files}
    if all(Path(file).stat().st_size == 0 for file in files):
        raise TaskError(f"{path} is empty")
    table = _load(path, split, builder, data_files=data_files, files=files)
    return _dates_as_text(table, files) if builder == "json" else table


def _load(
    path: str, split: str, builder: str, *, files: list[str] | None = None, **options: Any
) -> datasets.Dataset:
    with tempfile.TemporaryDirectory(prefix="rlcore-tasks-") as cache:
        try:
            return datasets.load_dataset(
                builder, split=split, cache_dir=cache, keep_in_memory=True, **options
            )
        except datasets.exceptions.DatasetGenerationError as error:
            where = _broken_line(files or []) if builder == "json" else None
            raise TaskError(
                where or f"{path} cannot be read: {error.__cause__ or error}"
            ) from error
        except (ValueError, OSError) as error:
            if "corresponds to no data" in str(error):
                raise TaskError(f"{path} has no rows (split {split!r})") from error
            raise TaskError(f"{path} cannot be read: {error}") from error


def _open_hub(path: str, split: str, subset: str | None) -> datasets.Dataset:
    try:
        return datasets.load_dataset(path, subset, split=split)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise TaskError(
            f"{path} is neither a local file ({', '.join(BUILDERS)}) nor a data set the hub gives "
            f"(subset {subset!r}, split {split!r}): {first_line(error)}"
        ) from error


def _kind(path: str) -> str | None:
    return next(
        (builder for suffix, builder in BUILDERS.items() if path.endswith(suffix)), None
    )


def _dates_as_text(table: datasets.Dataset, files: list[str]) -> datasets.Dataset:
    """The JSON reader takes a column of texts such as "2024-05-01" for times; a task wants the text."""
    dates = [
        name
        for name, feature in table.features.items()
        if getattr(feature, "dtype", "").startswith("timestamp")
    ]
    if not dates or len(table) != sum(1 for file in files for _ in _json_rows(file)):
        return table
    for name in dates:
        texts = [row.get(name) for file in files for row in _json_rows(file)]
        table = table.remove_columns(name).add_column(name, texts)
    return table


def _json_rows(file: str) -> Iterator[Any]:
    with (
        gzip.open(file, "rt", encoding="utf-8")
        if file.endswith(".gz")
        else open(file, encoding="utf-8") as text
    ):
        if ".jsonl" not in Path(file).name:
            yield from json.load(text)
            return
        for number, line in enumerate(text, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    error.lineno = number
                    raise


def _broken_line(files: list[str]) -> str | None:
    """Where the JSON is broken, as a sentence; read only after the library has failed."""
    for file in files:
        try:
            for _ in _json_rows(file):
                pass
        except json.JSONDecodeError as error:
            return f"{file}, line {error.lineno}: this is not JSON ({error.msg}, column {error.colno})"
        except (UnicodeDecodeError, EOFError, OSError) as error:
            return f"{file} cannot be read as UTF-8 text: {error}"
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    shown, verbosity = (
        not datasets.are_progress_bars_disabled(),
        datasets.logging.get_verbosity(),
    )
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if shown:
            datasets.enable_progress_bars()
