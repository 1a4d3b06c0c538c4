"""The way from raw text to prepared documents: nothing is lost or changed unseen, every drop is counted, a kill costs nothing."""

from __future__ import annotations

import doctest
import gzip
import importlib
import json
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from rlcore.errors import TaskError
from rlcore.tasks.corpus import prepare as preparing
from rlcore.tasks.corpus.clean import clean, pieces
from rlcore.tasks.corpus.overlap import Contamination, SeenBefore, words
from rlcore.tasks.corpus.prepare import Cleaning, Funnel, Prepared, prepare
from rlcore.tasks.corpus.read import Source
from rlcore.tasks.corpus.segment import cut, segmenter
from rlcore.tokenizer import byte_tokenizer

NOUNS = "river stone letter garden engine window market sailor mirror candle forest bridge harbour winter teacher".split()
VERBS = "follows carries answers watches repairs remembers crosses paints measures forgets".split()


def sentence(rng: random.Random) -> str:
    a, b, c = rng.sample(NOUNS, 3)
    return f"The {a} near the {b} {rng.choice(VERBS)} every {c} number {rng.randint(10, 9999)}."


def story(seed: int, sentences: int = 12) -> str:
    rng = random.Random(seed)
    said = [sentence(rng) for _ in range(sentences)]
    return "\n\n".join(" ".join(said[i : i + 4]) for i in range(0, sentences, 4))


def write(folder: Path, texts: list[object], name: str = "corpus.jsonl") -> Path:
    path = folder / name
    with gzip.open(path, "wt") if name.endswith(".gz") else open(path, "w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    return path


def made(path: Path, folder: Path, unit: str = "sentence", **settings: object) -> Prepared:
    return prepare(
        Source(str(path)), Cleaning(**settings), segmenter(unit), label=unit, folder=folder
    )


@pytest.mark.parametrize("module", ["clean", "segment", "template", "spans"])
def test_the_examples_in_the_docstrings_hold(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"rlcore.tasks.corpus.{module}"))
    assert result.attempted and not result.failed


@pytest.mark.parametrize("unit", ["sentence", "paragraph", "tokens"])
@pytest.mark.parametrize(
    "text",
    [
        story(1),
        "Dr. Ann paid £3.50.  Why?\n\n \nNobody «knew»… e.g. Bo.\n\n\n",
        "naïve 😀🎉 日本。本日。\n\n x",
        "a",
    ],
)
def test_segments_put_together_are_the_text(unit: str, text: str) -> None:
    ends = segmenter(unit, tokenizer=byte_tokenizer(), tokens=5)(text)
    assert "".join(cut(text, ends)) == text and ends == sorted(set(ends)) and all(cut(text, ends))


def test_sentences_are_those_a_reader_sees() -> None:
    said = [sentence(random.Random(i)) for i in range(5)] + [
        "Dr. Ann met Mr. Bo at 3.15 p.m. in Paris.",
        "Did he speak?",
    ]
    found = cut(text := " ".join(said), segmenter("sentence")(text))
    assert [part.strip() for part in found] == said


def test_every_kind_of_file_gives_the_same_documents(tmp_path: Path) -> None:
    texts = [story(i) for i in range(6)]
    write(tmp_path, texts)
    write(tmp_path, texts, "packed.jsonl.gz")
    parquet.write_table(pa.table({"text": texts}), tmp_path / "table.parquet")
    (tmp_path / "plain.txt").write_text(texts[0])
    kinds = [
        made(tmp_path / name, tmp_path / name[:3])
        for name in ("corpus.jsonl", "packed.jsonl.gz", "table.parquet")
    ]
    assert kinds[0].table["text"] == texts == kinds[1].table["text"] == kinds[2].table["text"]
    assert made(tmp_path / "plain.txt", tmp_path / "pla").table["text"] == texts[:1]


def test_a_large_text_file_is_read_in_pieces_that_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text(text := "\n\n".join(story(i) for i in range(40)))
    rows = [row.text for row in Source(str(tmp_path / "long.txt")).rows(max_chars=3000)]
    assert "".join(rows) == text and max(map(len, rows)) <= 3000 and len(rows) > 10
    parts = list(pieces(text, 3000))
    assert "".join("".join(parts).split()) == "".join(text.split()) and max(map(len, parts)) <= 3000


def test_each_drop_is_counted_where_it_happens(tmp_path: Path) -> None:
    eval_set = write(
        tmp_path,
        [asked := " ".join(sentence(random.Random(99)) for _ in range(3))],
        "eval_set.jsonl",
    )
    good = story(0)
    near = good.replace("number", "number", 1).replace(good.split()[-1], "7.")
    texts = [
        good, near, "", None, 7, "too short", "| 3 | 4 |\n" * 60, "\n".join(["Home About Contact us"] * 30),
        "abcdefghijklmnopqrstuvwxyz " * 20, "\n".join(f"- item {sentence(random.Random(i))}" for i in range(9)),
        story(5) + "\n\n" + asked, "one long line without any end " + " ".join(NOUNS * 3),
    ]  # fmt: skip
    path = write(tmp_path, texts)
    path.open("a").write("this is no json\n")
    funnel = made(path, tmp_path / "out", against=(str(eval_set),)).funnel
    assert (funnel.rows, funnel.without_text, funnel.documents, funnel.kept) == (13, 4, 9, 1)
    dropped = [
        funnel.too_short,
        funnel.few_letters,
        funnel.repeated_lines,
        funnel.odd_words,
        funnel.listed,
    ]
    assert dropped == [1, 1, 1, 1, 1] and (
        funnel.duplicate,
        funnel.contaminated,
        funnel.few_segments,
    ) == (1, 1, 1)
    assert funnel.dropped == sum(dropped) + 3


def test_near_duplicates_are_found_and_others_are_not(tmp_path: Path) -> None:
    seen = SeenBefore(1000)
    texts = [words(story(i)) for i in range(200)]
    assert not any(seen(text) for text in texts)
    changed = [[*text[:40], "other", *text[41:]] for text in texts]
    assert sum(seen(text) for text in changed) > 185 and all(seen(text) for text in texts)
    seen.save(tmp_path / "seen")
    assert SeenBefore(1000, tmp_path / "seen")(texts[3])


def test_only_shared_n_grams_contaminate(tmp_path: Path) -> None:
    eval_set = write(
        tmp_path,
        [" ".join(f"word{i}" for i in range(30)), "only nine words are in this short one here"],
        "eval_set.jsonl",
    )
    dirty = Contamination([str(eval_set)], 13)
    assert dirty(words("x y " + " ".join(f"Word{i}," for i in range(5, 18)) + " z"))
    assert not dirty(words(" ".join(f"word{i}" for i in range(5, 17))))  # 12 words
    assert dirty(words("yes, ONLY nine words are in this short one here."))
    assert not dirty(words("nine words are in this short one here"))


def test_cleaning_masks_people_and_keeps_the_words() -> None:
    assert (
        clean("Mail a.b@c.org from 10.0.0.1\u200b \r\n\r\n\r\n\r\n ok ")
        == "Mail <email> from <address>\n\nok"
    )
    text = story(3)
    assert clean(text) == text == clean(clean(text))


class Killed(Exception):
    pass


def test_a_killed_preparation_goes_on_and_leaves_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "COMMIT_CHARS", 6000)
    path = write(tmp_path, [story(i % 45) for i in range(60)], "corpus.jsonl.gz")
    seen: list[int] = []

    def kill(funnel: Funnel) -> None:
        seen.append(funnel.rows)
        if len(seen) in (2, 5):
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            prepare(
                Source(str(path)),
                Cleaning(),
                segmenter("sentence"),
                folder=tmp_path / "killed",
                progress=kill,
            )
        (tmp_path / "killed" / f"documents-{len(seen):06d}.arrow").write_bytes(b"half a shard")
    whole = made(path, tmp_path / "whole")
    resumed = prepare(
        Source(str(path)),
        Cleaning(),
        segmenter("sentence"),
        folder=tmp_path / "killed",
        progress=kill,
    )
    assert resumed.funnel == whole.funnel and whole.funnel.duplicate == 15 and seen[2] > seen[1]
    folders = (tmp_path / "killed", tmp_path / "whole")
    files = [
        sorted(file.name for file in folder.iterdir() if file.suffix in (".arrow", ".bloom"))
        for folder in folders
    ]
    assert files[0] == files[1] and len(files[0]) > 5
    for name in files[0]:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_other_settings_or_other_text_are_prepared_anew(tmp_path: Path) -> None:
    path = write(tmp_path, [story(i) for i in range(4)])
    assert made(path, tmp_path / "out").funnel.kept == 4
    assert made(path, tmp_path / "out", documents=2).funnel.kept == 2
    write(tmp_path, [story(i) for i in range(5)])
    assert made(path, tmp_path / "out").funnel.kept == 5


def test_the_parts_are_disjoint_and_cover_all(tmp_path: Path) -> None:
    whole = made(write(tmp_path, [story(i) for i in range(80)]), tmp_path / "out")
    train, heldout = set(whole.part("train").table["id"]), set(whole.part("heldout").table["id"])
    assert (
        not train & heldout and train | heldout == set(whole.table["id"]) and 0 < len(heldout) < 20
    )


def test_bad_input_is_met_with_a_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, [story(0)])
    with pytest.raises(TaskError, match="did you mean 'corpus.jsonl'"):
        made(tmp_path / "corpsu.jsonl", tmp_path / "out")
    with pytest.raises(TaskError, match="without_text.*column 'words'"):
        prepare(
            Source(str(path), column="words"),
            Cleaning(),
            segmenter("sentence"),
            folder=tmp_path / "out",
        )
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xfa" * 400)
    with pytest.raises(TaskError, match="bad.txt cannot be read"):
        made(tmp_path / "bad.txt", tmp_path / "out2")
    with pytest.raises(TaskError, match="tokenizer"):
        segmenter("tokens")


MEASURE = """
import sys
from pathlib import Path
from rlcore.tasks.corpus import prepare
from rlcore.tasks.corpus.read import Source
from rlcore.tasks.corpus.segment import segmenter
prepare.COMMIT_CHARS = 1_000_000
cleaning, segment = prepare.Cleaning(capacity=50_000), segmenter("paragraph")
made = prepare.prepare(Source(sys.argv[1]), cleaning, segment, label="paragraph", folder=Path(sys.argv[2]))
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Vm"))
print(made.funnel.characters_kept, status["VmHWM"].split()[0])  # not getrusage's number, which begins with the parent's
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc"
)
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Fourteen shards of 1 MB take at most 8 MB more than two; held whole they would take 12 MB and more."""
    rng, used = random.Random(0), []
    for shards in (2, 14):
        path = write(
            tmp_path,
            [
                "\n\n".join(" ".join(rng.choices(NOUNS, k=70)) for _ in range(40))
                for _ in range(shards * 52)
            ],
        )
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, path, tmp_path / "out"],
            capture_output=True,
            text=True,
            check=True,
        )
        used.append([int(number) for number in done.stdout.split()])
    assert used[1][0] > 13e6 and used[1][0] > 6 * used[0][0]
    assert used[1][1] - used[0][1] < 8_000, used
