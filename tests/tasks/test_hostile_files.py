"""Task files that are broken, hostile or odd: a sentence that names the file, and never the end of the process."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from rlcore.errors import TaskError
from rlcore.tasks.corpus.read import Source
from rlcore.tasks.dataset import dataset
from rlcore.tasks.table import open_table

GOOD = b'{"prompt": "a"}\n{"prompt": "b"}\n'
DEEP = b'{"prompt": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (
            "x.jsonl",
            GOOD + b"null\n",
            r"x.jsonl, line 3: a row must be a JSON object, not 'null'",
        ),
        ("x.jsonl", b"null\n" * 3, "line 1: a row must be"),
        ("x.jsonl", GOOD + b"5\n", "line 3: a row must be"),
        ("x.jsonl", GOOD + b"[1]\n", "line 3: a row must be"),
        (
            "x.jsonl",
            GOOD + '{"prompt": "é"}\n'.encode("latin-1"),
            "line 3: this is not UTF-8 text",
        ),
        ("x.jsonl", GOOD + b'{"prompt": "\xff\xfe"}\n', "line 3: this is not UTF-8 text"),
        ("x.jsonl", GOOD + DEEP, "line 3: it is nested deeper than 100 levels"),
        ("x.jsonl", GOOD + DEEP.replace(b"]", b""), "line 3: it is nested deeper"),
        ("x.jsonl", GOOD + b'{"prompt"', "line 3: this is not JSON"),
        ("x.jsonl", GOOD + b'{"prompt": \n' + GOOD, "line 3: this is not JSON"),
        ("x.jsonl", b"\n\n", "x.jsonl"),
        ("x.jsonl", b"\0" * 100, "line 1: a row must be"),
        ("x.json", b"5", "must hold a list of JSON objects, not 5"),
        ("x.json", b"null", "must hold a list"),
        ("x.json", b'"text"', "must hold a list"),
        ("x.json", b'[{"prompt": "a"}, null]', "row 2: it is None"),
        ("x.json", b"[" * 100_000, "nested deeper"),
        ("x.json", b"[", "this is not JSON"),
        ("x.json", b"[]", "x.json"),
        ("x.json", b"9" * 5000, "x.json cannot be read"),
        ("x.parquet", b"PAR1 no", "x.parquet"),
    ],
)
def test_a_broken_file_is_a_sentence(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=sentence) as error:
        dataset(str(tmp_path / name))
    assert name in str(error.value)


@pytest.mark.parametrize("cut", [10, 25, -1])
def test_a_compressed_file_that_was_cut_is_a_sentence(tmp_path: Path, cut: int) -> None:
    for name in ("x.jsonl.gz", "x.json.gz"):
        (tmp_path / name).write_bytes(gzip.compress(GOOD * 100, mtime=0)[:cut])
        with pytest.raises(TaskError, match=f"{name} cannot be read"):
            dataset(str(tmp_path / name))


def test_an_empty_compressed_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b"", mtime=0))
    with pytest.raises(TaskError, match="x.jsonl.gz"):
        dataset(str(tmp_path / "x.jsonl.gz"))


def test_text_of_parquet_that_is_no_utf8_is_a_sentence(tmp_path: Path) -> None:
    column = pa.array([b"a", b"\xff"], pa.binary()).view(pa.binary())
    array = pa.StringArray.from_buffers(2, column.buffers()[1], column.buffers()[2])
    parquet.write_table(pa.table({"prompt": array}), tmp_path / "x.parquet")
    with pytest.raises(TaskError, match="x.parquet holds text that is not UTF-8"):
        dataset(str(tmp_path / "x.parquet"))


@pytest.mark.parametrize(
    "path", ["~nouser/x.jsonl", "/" + "x" * 5000 + ".jsonl", "/tmp/a\nb.jsonl", "LOOP/x.jsonl"]
)
def test_a_path_that_no_file_can_have_is_a_sentence(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(TaskError, match="there is no task file"):
        dataset(path.replace("LOOP", str(tmp_path / "loop")))


def test_an_empty_marker_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    with pytest.raises(TaskError, match="answer_after is empty"):
        dataset(str(tmp_path / "x.jsonl"), answer_after="")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", b'\xef\xbb\xbf{"prompt": "a"}\n{"prompt": "b"}\n'),
        ("x.jsonl", GOOD.replace(b"\n", b"\r\n")),
        ("x.jsonl", b"\n" + GOOD + b"\n\n"),
        ("x.json", GOOD),
        ("x.json", b'[{"prompt": "a"}, {"prompt": "b"}]'),
        ("x.jsonl", GOOD.replace(b"a", b"[" * 5000)),
    ],
)
def test_odd_files_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert len(dataset(str(tmp_path / name))) == 2


@pytest.mark.parametrize(
    "content", ['{"text": "é"}\n'.encode("latin-1"), gzip.compress(b"x" * 1000, mtime=0)[:20]]
)
def test_a_broken_corpus_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    name = "x.jsonl.gz" if content[:1] == b"\x1f" else "x.jsonl"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match=f"{name} cannot be read"):
        list(Source(str(tmp_path / name), "text", None, "train").rows())


def test_a_deep_row_of_a_corpus_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(DEEP + json.dumps({"text": "b"}).encode())
    rows = list(Source(str(tmp_path / "x.jsonl"), "text", None, "train").rows())
    assert [row.text for row in rows] == [None, "b"]


def test_a_row_without_end_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlcore.tasks.json_check.MAX_LINE", 1 << 20)
    rows = ['{"prompt": "a"}', '{"prompt": "' + "x" * (1 << 21) + '"}', '{"prompt": "b"}']
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(rows))
    with pytest.raises(TaskError, match="long.jsonl, line 2: it is longer than 1 MB"):
        open_table(str(path), split="train", subset=None)
