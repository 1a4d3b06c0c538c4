"""Tasks made of a corpus ask for what is in the text and not in the prompt, and each token has the role it is said to have."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from rlcore.errors import RecipeError, TaskError
from rlcore.recipe.build import build_tasks
from rlcore.recipe.load import override
from rlcore.recipe.task_sections import TaskSection
from rlcore.tasks.corpus.positions import BINS, position_tasks
from rlcore.tasks.corpus.prepare import Cleaning, Prepared, prepare
from rlcore.tasks.corpus.read import Source
from rlcore.tasks.corpus.segment import cut, segmenter
from rlcore.tasks.corpus.spans import hide, paragraph_tasks, span_tasks
from rlcore.tasks.corpus.targets import segment_tasks, text_tasks
from rlcore.tokenizer import byte_tokenizer
from tests.tasks.test_corpus import story, write

REAL = (
    Path(
        os.environ.get(
            "RLCORE_DATA", Path(__file__).resolve().parents[2].parent / "shared" / "data"
        )
    )
    / "corpus.jsonl.gz"
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("corpus")
    repeated = " Again and again it is said."
    texts = [story(i) for i in range(30)] + [
        story(77) + repeated + " Yes. " + story(78) + repeated + " " + story(79)
    ]
    return prepare(
        Source(str(write(folder, texts))), Cleaning(), segmenter("sentence"), folder=folder / "out"
    )


def test_a_document_of_n_segments_gives_n_minus_two_tasks(prepared: Prepared) -> None:
    table = prepared.table
    assert all(len(row["targets"]) == len(row["ends"]) - 2 for row in table.select(range(30)))
    tasks = segment_tasks(prepared)
    assert (
        len(tasks) == sum(len(targets) for targets in table["targets"]) == prepared.funnel.targets
    )
    last = [task for task in tasks if task.id.startswith(table[30]["id"])]
    assert (
        len(last) == len(table[30]["ends"]) - 2 - 3
    )  # "Yes." is too short, and what is said twice cannot be asked for
    assert not any("Again" in task.answer or task.answer == "Yes." for task in last)


def test_every_task_is_legal(prepared: Prepared) -> None:
    check_legal(prepared)


def check_legal(prepared: Prepared, **settings: int) -> dict[str, int]:
    """Every task of a corpus: prompts without the answer, contexts that come just before it."""
    tasks, counted, ids = segment_tasks(prepared, **settings), {"asr": 0, "msr": 0}, set()
    texts = dict(zip(prepared.table["id"], prepared.table["text"], strict=True))
    for task in tasks:
        counted[task.category] += 1
        text = texts[task.id.rsplit("/", 2)[0]]
        context, answer = task.columns["context"], task.answer
        assert answer not in task.prompt and text.count(answer) == 1, task.id
        assert (
            context
            and context in task.prompt
            and text[: text.index(answer)].rstrip().endswith(context.rstrip())
        ), task.id
        assert task.columns["reference"][0] == answer
        after = text[text.index(answer) + len(answer) :].strip()
        _, slot, shown = task.prompt.rpartition("[MISSING]\n")
        assert bool(slot) == (task.category == "msr") and (
            not slot or (shown and after.startswith(shown))
        ), task.id
        ids.add(task.id)
    assert len(ids) == len(tasks)
    return counted


def test_msr_shows_the_next_segment_and_asr_does_not(prepared: Prepared) -> None:
    for share, category in ((0.0, "asr"), (1.0, "msr")):
        tasks = segment_tasks(prepared, msr_share=share)
        assert {task.category for task in tasks} == {category}
        for task in tasks[:200]:
            document, _, place = task.id.rsplit("/", 2)
            row = next(row for row in prepared.table if row["id"] == document)
            following = cut(row["text"], row["ends"])[int(place) + 1].strip()
            assert (following in task.prompt) == (category == "msr")
    drawn = [task.category for task in segment_tasks(prepared, msr_share=1 / 3)]
    assert 0.2 < drawn.count("msr") / len(drawn) < 0.46
    assert drawn == [task.category for task in segment_tasks(prepared, msr_share=1 / 3)]


def test_per_document_draws_so_many_targets_of_each(prepared: Prepared) -> None:
    whole = {task.id: task.answer for task in segment_tasks(prepared, msr_share=0.0)}
    drawn = segment_tasks(prepared, msr_share=0.0, per_document=2)
    counts = Counter(task.id.rsplit("/", 2)[0] for task in drawn)
    assert counts == {row["id"]: min(2, len(row["targets"])) for row in prepared.table if row["targets"]}
    assert len({task.id for task in drawn}) == len(drawn) and all(whole[task.id] == task.answer for task in drawn)
    again = segment_tasks(prepared, msr_share=0.0, per_document=2, seed=1)
    assert [task.id for task in again] != [task.id for task in drawn]
    with pytest.raises(TaskError, match="per_document >= 1"):
        segment_tasks(prepared, per_document=0)


def test_without_a_tag_a_demonstration_goes_on_with_the_text(prepared: Prepared) -> None:
    texts = dict(zip(prepared.table["id"], prepared.table["text"], strict=True))
    for task in segment_tasks(prepared, msr_share=0.0, tag="")[:200]:
        assert task.columns["context"] + task.demonstration in texts[task.id.rsplit("/", 2)[0]]


def test_long_contexts_are_cut_at_a_segment(prepared: Prepared) -> None:
    for task in segment_tasks(prepared, context_chars=150)[:200]:
        context = task.columns["context"]
        assert len(context) <= 150 and (context.startswith("The ") or len(context) == 150)


def test_documents_to_imitate_are_whole(prepared: Prepared) -> None:
    texts = list(prepared.table["text"])
    for tasks in (text_tasks(prepared), text_tasks(prepared, prompt_chars=5)):
        assert [task.prompt + task.demonstration for task in tasks] == texts
    assert {len(task.prompt) for task in tasks} == {5}
    with pytest.raises(TaskError, match="at least 1 character"):
        text_tasks(prepared, prompt_chars=0)


def test_positions_are_drawn_by_seed_one_a_document(prepared: Prepared) -> None:
    first, other = (
        position_tasks(prepared, tokenizer=byte_tokenizer(), seed=seed) for seed in (0, 1)
    )
    assert len(first) == len(prepared.table) and [t.id for t in first] != [t.id for t in other]
    for task in first:
        assert task.columns["context"] + task.columns["continuation"] == task.columns["text"]
        assert task.prompt == task.columns["context"] + "<think>" and task.columns[
            "continuation"
        ].startswith(task.answer)
        [[start, end]] = task.columns["spans"]
        assert task.columns["text"][start:end] == task.answer and start >= 8


def test_positions_by_entropy_are_in_their_bins(prepared: Prepared) -> None:
    def entropies(sequences: list[list[int]]) -> list[list[float]]:
        return [[(token % 7) / 3 for token in sequence[1:]] for sequence in sequences]

    tasks = position_tasks(
        prepared,
        tokenizer=byte_tokenizer(),
        entropies=entropies,
        per_document=2,
        thresholds=(0.5, 1.5),
    )
    assert {task.category for task in tasks} == set(BINS) and len(tasks) == 6 * len(prepared.table)
    for task in tasks:
        value = (ord(task.answer) % 7) / 3
        assert task.category == ("easy" if value < 0.5 else "medium" if value < 1.5 else "hard")
        assert (
            len(task.columns["spans"]) == 6
            and len({tuple(span) for span in task.columns["spans"]}) == 6
        )


def test_a_hidden_span_put_back_is_the_text(prepared: Prepared) -> None:
    tasks = span_tasks(prepared)
    for task in tasks:
        text, span = task.columns["text"], task.columns["span"]
        hidden = hide(text, span)
        assert (
            span in text
            and hidden in task.prompt
            and span not in hidden
            and hidden.replace("[MASK]", span) == text
        )
    assert [task.answer for task in tasks] == [task.answer for task in span_tasks(prepared)]
    assert {task.columns["text"] for task in paragraph_tasks(prepared)} == set(
        prepared.table["text"]
    )
    assert [
        hide(*pair) for pair in (("a b a b", "c"), ("a b", " "), ("x " * 8, "x"), ("all", "all"))
    ] == [None] * 4


def test_a_recipe_names_all_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLCORE_CACHE", str(tmp_path))
    path = write(tmp_path, [story(i) for i in range(40)])

    def built(*overrides: str) -> list:
        raw = {"use": "corpus", "path": ["absent.jsonl", str(path)]}
        override(raw, overrides)
        return list(build_tasks(TaskSection.model_validate(raw)))

    assert {task.category for task in built()} == {"asr", "msr"}
    assert len(built("form=text", "part=heldout")) + len(built("form=text", "part=train")) == 40
    assert len(built("form={use: positions, per_document: 3}", "tokenizer=bytes")) == 120
    assert {
        task.category
        for task in built("form={use: segments, msr_share: 1.0}", "unit=tokens", "tokenizer=bytes")
    } == {"msr"}
    with pytest.raises(RecipeError, match="did you mean 'msr_share'"):
        built("form={use: segments, msr_shar: 1.0}")
    with pytest.raises(TaskError, match="tokenizer"):
        built("form=positions")
    with pytest.raises(TaskError, match="{next}"):
        built("form={use: segments, msr_prompt: 'what? {context}'}")


@pytest.mark.skipif(not REAL.exists(), reason="the corpus is not here; set RLCORE_DATA")
def test_every_task_of_the_real_corpus_is_legal(tmp_path: Path) -> None:
    """On the first 150 documents; the whole file takes a minute."""
    made = prepare(
        Source(str(REAL)), Cleaning(documents=150), segmenter("sentence"), folder=tmp_path
    )
    counted = check_legal(made, context_chars=1000)
    assert min(counted.values()) > 1000
    assert all("".join(cut(row["text"], row["ends"])) == row["text"] for row in made.table)
