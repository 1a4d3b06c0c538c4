"""Opens task data as a table: local JSON Lines, JSON and Parquet files, or a data set of the Hugging Face hub."""

from __future__ import annotations

import glob
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import datasets

from rlcore.errors import TaskError, first_line
from rlcore.plugin import did_you_mean
from rlcore.tasks.json_check import check_json, json_rows

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
    # os.path's functions, unlike Path's, do not raise for a name that no file can have.
    looks_local = (
        glob.has_magic(path)
        or path.startswith(("/", "./", "../", "~"))
        or _kind(path) is not None
    )
    return looks_local or os.path.exists(path)


def _open_local(path: str, split: str, subset: str | None) -> datasets.Dataset:
    place = os.path.expanduser(path)
    if subset is not None:
        raise TaskError(
            f"subset={subset!r} is for hub data sets; {path} is a local file or folder"
        )
    if os.path.isdir(place):
        return _load(path, split, place)
    files = [place] if os.path.isfile(place) else sorted(glob.glob(place, recursive=True))
    if not files:
        near = did_you_mean(os.path.basename(place), _neighbours(place))
        raise TaskError(f"there is no task file {path[:200]}{near}")
    kinds = {_kind(file) for file in files}
    if len(kinds) != 1 or None in kinds:
        raise TaskError(f"{path} must be files of one kind among {', '.join(BUILDERS)}")
    builder, data_files = str(kinds.pop()), {split.partition("[")[0]: files}
    if all(os.path.getsize(file) == 0 for file in files):
        raise TaskError(f"{path} is empty")
    if builder == "json":
        for file in files:
            check_json(file)
    table = _load(path, split, builder, data_files=data_files, files=files)
    return _dates_as_text(table, files) if builder == "json" else table


def _neighbours(place: str) -> list[str]:
    try:
        return os.listdir(os.path.dirname(place) or ".")
    except (OSError, ValueError):
        return []


def _load(
    path: str, split: str, builder: str, *, files: list[str] | None = None, **options: Any
) -> datasets.Dataset:
    json_files = files if files and builder == "json" else []
    with tempfile.TemporaryDirectory(prefix="rlcore-tasks-") as cache:
        try:
            return datasets.load_dataset(
                builder, split=split, cache_dir=cache, keep_in_memory=True, **options
            )
        except datasets.exceptions.DatasetGenerationError as error:
            where = _broken_line(json_files)
            raise TaskError(
                where or f"{path} cannot be read: {error.__cause__ or error}"
            ) from error
        # A library that fails over data raises anything: what it says is about the data.
        except Exception as error:
            if "corresponds to no data" in str(error) or isinstance(error, StopIteration):
                raise TaskError(f"{path} has no rows (split {split!r})") from error
            where = _broken_line(json_files)
            raise TaskError(where or f"{path} cannot be read: {first_line(error)}") from error


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
    if not dates or len(table) != sum(1 for file in files for _ in json_rows(file)):
        return table
    for name in dates:
        texts = [row.get(name) for file in files for row in json_rows(file)]
        table = table.remove_columns(name).add_column(name, texts)
    return table


def _broken_line(files: list[str]) -> str | None:
    """Where the JSON is broken, as a sentence; read only after the library has failed."""
    for file in files:
        try:
            for _ in json_rows(file):
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
