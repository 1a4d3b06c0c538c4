from __future__ import annotations

import gzip
import json

import datasets as hf
import pytest

from rlcore.errors import TaskError
from rlcore.tasks.dataset import dataset

ROWS = [
    {"question": f"{n}+1=?", "answer": f"work {n}\n#### {n + 1:,}", "level": n % 3, "note": None}
    for n in range(998, 1008)
]


@pytest.fixture
def write(tmp_path):
    """Write rows in the kind of file its name says; rows that are texts are written as they stand."""

    def make(name: str, rows: list) -> str:
        path = tmp_path / name
        lines = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        if name.endswith(".parquet"):
            hf.Dataset.from_list(rows).to_parquet(path)
        elif name.endswith(".json"):
            path.write_text(json.dumps(rows, indent=1))
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(lines.encode()))
        else:
            path.write_text(lines)
        return str(path)

    return make


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz", "data.json", "data.parquet"])
def test_every_kind_of_file_gives_the_same_tasks(name, write):
    tasks = dataset(
        write(name, ROWS), columns={"prompt": "question", "category": "level"}, answer_after="####"
    )
    assert len(tasks) == 10
    assert (tasks[3].id, tasks[3].prompt, tasks[3].answer, tasks[3].category) == (
        "data/3",
        "1001+1=?",
        "1,002",
        "2",
    )
    assert (
        tasks[3].columns == ROWS[3] and tasks[-1] == tasks[9] and tasks[:2] == [tasks[0], tasks[1]]
    )


def test_rows_without_an_answer_are_told(write):
    rows = [{"prompt": f"q{n}", "answer": None if n in (2, 5) else "x"} for n in range(10)]
    path = write("d.jsonl", rows)
    assert dataset(path).note == f"2 of 10 tasks have no answer, the first {path}, row 3"
    assert dataset(path, limit=2).note == ""
    assert dataset(write("none.jsonl", [{"prompt": "q"}, {"prompt": "p"}])).note == ""


def test_templates_and_braces(write):
    path = write(
        "d.jsonl",
        [{"Body": "Two cats.", "Question": "How many legs?", "Answer": 8.0, "ID": 17, "kind": "x"}],
    )
    task = dataset(
        path,
        columns={
            "prompt": "{Body} {Question} Use \\boxed{} or {{x}}.",
            "answer": "Answer",
            "id": "ID",
            "demonstration": "It is {Answer}",
            "category": "{kind}-{ID}",
        },
    )[0]
    assert task.prompt == "Two cats. How many legs? Use \\boxed{} or {x}."
    assert (task.answer, task.id, task.demonstration, task.category) == (
        8.0,
        "17",
        "It is 8.0",
        "x-17",
    )


def test_chat_prompts(write):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+2=?"}]
    assert dataset(write("d.jsonl", [{"prompt": messages, "answer": "4"}]))[0].prompt == messages


def test_fields_default_to_columns_of_their_own_name(write):
    task = dataset(
        write(
            "d.jsonl",
            [{"prompt": "p", "answer": "a", "category": "x", "demonstration": "d", "id": "one"}],
        )
    )[0]
    assert (task.prompt, task.answer, task.category, task.demonstration, task.id) == (
        "p",
        "a",
        "x",
        "d",
        "one",
    )
    task = dataset(write("e.jsonl", [{"prompt": "p"}]))[0]
    assert (task.answer, task.category, task.demonstration, task.id) == (None, "all", None, "e/0")


def test_a_changed_file_is_read_again(write, tmp_path):
    path = write("d.jsonl", [{"prompt": "old"}])
    assert dataset(path)[0].prompt == "old"
    stamp = (tmp_path / "d.jsonl").stat()
    write("d.jsonl", [{"prompt": "new"}])
    __import__("os").utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # same size, same time
    assert dataset(path)[0].prompt == "new"


def test_limit_shuffle_and_ids(write):
    path = write("d.jsonl", ROWS)
    shuffled = dataset(path, columns={"prompt": "question"}, shuffle_seed=1)
    assert (
        sorted(task.id for task in shuffled)
        == [f"d/{n}" for n in range(10)]
        != [task.id for task in shuffled]
    )
    assert (
        list(dataset(path, columns={"prompt": "question"}, shuffle_seed=1, limit=4)) == shuffled[:4]
    )
    assert all(task.prompt == f"{998 + int(task.id[2:])}+1=?" for task in shuffled)
    assert len(dataset(path, columns={"prompt": "question"}, split="train[2:5]")) == 3
    assert len(dataset(path, columns={"prompt": "question"}, limit=99)) == 10


def test_several_files_and_folders(write, tmp_path):
    write("part_b.jsonl", [{"prompt": "b"}])
    write("part_a.jsonl", [{"prompt": "a"}])
    assert [task.prompt for task in dataset(f"{tmp_path}/part_*.jsonl")] == ["a", "b"]
    assert sorted(task.prompt for task in dataset(str(tmp_path))) == ["a", "b"]


def test_text_that_looks_like_a_date_stays_text(write):
    rows = [
        {"prompt": "When?", "answer": "2024-05-01"},
        {"prompt": "And then?", "answer": "2024-05-02"},
    ]
    assert [task.answer for task in dataset(write("d.jsonl", rows))] == ["2024-05-01", "2024-05-02"]


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        (ROWS, {}, "d.jsonl has no column 'prompt' for the prompt.*there are: 'question'"),
        (
            ROWS,
            {"columns": {"prompt": "Questions"}},
            "no column 'Questions'.*did you mean 'question'",
        ),
        (
            ROWS,
            {"columns": {"prompt": "{question} {levle}"}},
            "no column 'levle'.*did you mean 'level'",
        ),
        (ROWS, {"columns": {"promt": "question"}}, "no field 'promt'; did you mean 'prompt'"),
        (
            ROWS,
            {"columns": {"prompt": "{question} {note}"}},
            "row 1: column 'note', part of the prompt, is empty",
        ),
        ([], {}, "is empty"),
        ([" "], {}, "has no rows"),
        ([{"prompt": "a"}, {"prompt": " "}], {}, "row 2: the prompt .* is empty"),
        ([{"prompt": "a"}, {"prompt": None}], {}, "row 2: the prompt .* is empty"),
        ([{"prompt": ["a"]}], {}, "row 1: the prompt .* list of messages"),
        ([{"prompt": 3}], {}, "row 1: the prompt .* of type int"),
        ([{"prompt": "a"}, '{"prompt": "b", }'], {}, "d.jsonl, line 2: this is not JSON"),
        (
            [{"prompt": "a", "answer": "5"}],
            {"answer_after": "####"},
            "row 1: the answer has nothing after a '####'",
        ),
        ([{"prompt": "a"}], {"answer_after": "####"}, "answer_after='####' needs an answer"),
        (
            [{"prompt": "a", "id": 1}, {"prompt": "b", "id": 1}],
            {},
            "rows 1 and 2 have the same id '1'",
        ),
        ([{"prompt": "a", "demonstration": ["x"]}], {}, "row 1: the demonstration must be text"),
        ([{"prompt": "a"}], {"limit": 0}, "limit=0"),
        ([{"prompt": "a"}], {"subset": "main"}, "subset='main' is for hub data sets"),
    ],
)
def test_bad_data_is_met_with_a_sentence(rows, settings, message, write):
    with pytest.raises(TaskError, match=message):
        dataset(write("d.jsonl", rows), **settings)


def test_missing_files_name_their_neighbours(write):
    path = write("problems.jsonl", ROWS)
    with pytest.raises(TaskError, match="there is no task file .*did you mean 'problems.jsonl'"):
        dataset(path.replace("problems", "problem"))


def test_a_broken_json_list_names_its_line(tmp_path):
    (tmp_path / "d.json").write_text('[{"prompt": "a"},\n {"prompt": }]')
    with pytest.raises(TaskError, match="d.json, line 2: this is not JSON"):
        dataset(str(tmp_path / "d.json"))
