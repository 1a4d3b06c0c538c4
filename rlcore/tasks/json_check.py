"""A look at JSON files before a library reads them: pyarrow ends the whole process on some."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import IO, Any

from rlcore.errors import TaskError, brief, first_line

MAX_DEPTH = 100
"""Lists and objects inside one another in a row."""
MAX_LINE = 64 << 20
"""Bytes of a row."""
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]')


def check_json(file: str) -> None:
    """Raise `TaskError` with file and line for what is no table of JSON objects.

    Lines are looked at, not parsed: text that is no UTF-8, a row that is no object (`null`), one
    nested too deeply, a compressed file that was cut. The library names other faults of JSON.
    """
    try:
        if ".jsonl" in file.rpartition("/")[2]:
            _check_lines(file)
        else:
            _check_whole(file)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(f"{file} cannot be read: {first_line(error)}") from error


def _check_lines(file: str) -> None:
    with _open(file) as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE + 1), b""), start=1):
            where = f"{file}, line {number}"
            if len(line) > MAX_LINE:
                raise TaskError(f"{where}: it is longer than {MAX_LINE >> 20} MB; no row is")
            _check_text(line, where)
            start = _without_mark(line).lstrip()[:1]
            if start and start != b"{":
                raise TaskError(
                    f"{where}: a row must be a JSON object, not {brief(_start(line))}"
                )


def _check_whole(file: str) -> None:
    with _open(file) as stream:
        content = stream.read()
    _check_text(content, file)
    try:
        rows = json.loads(_without_mark(content))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and _without_mark(content).lstrip()[:1] == b"{":
            # One object a line under the name .json.
            _check_lines(file)
            return
        raise TaskError(
            f"{file}, line {error.lineno}: this is not JSON ({error.msg}, column {error.colno})"
        ) from None
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{file} cannot be read: {first_line(error)}") from None
    if isinstance(rows, dict):
        return
    if not isinstance(rows, list):
        raise TaskError(f"{file} must hold a list of JSON objects, not {brief(rows)}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise TaskError(f"{file}, row {number}: it is {brief(row)}, not a JSON object")


def _check_text(text: bytes, where: str) -> None:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{where}: this is not UTF-8 text (byte {error.start}, {text[error.start]:#x}): "
            "save the file as UTF-8"
        ) from None
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise TaskError(f"{where}: it is nested deeper than {MAX_DEPTH} levels")


def _depth(text: bytes) -> int:
    deepest = depth = 0
    for token in _TOKENS.finditer(text):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif mark in (b"]", b"}"):
            depth -= 1
    return deepest


def _without_mark(text: bytes) -> bytes:
    """The text without the byte order mark that some editors put first."""
    return text.removeprefix(codecs.BOM_UTF8)


def _start(line: bytes) -> str:
    return line.strip()[:40].decode("utf-8", errors="replace")


def _open(file: str) -> IO[bytes]:
    return gzip.open(file, "rb") if file.endswith(".gz") else open(file, "rb")


def json_rows(file: str) -> Iterator[Any]:
    """The rows of a JSON or JSON Lines file; a `JSONDecodeError` has the line of the file."""
    with _open(file) as stream:
        if ".jsonl" not in file.rpartition("/")[2]:
            yield from json.load(stream)
            return
        for number, line in enumerate(stream, start=1):
            if line.strip():
                try:
                    yield json.loads(line)
                except json.JSONDecodeError as error:
                    error.lineno = number
                    raise
