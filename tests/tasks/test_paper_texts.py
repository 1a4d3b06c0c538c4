"""Texts made by rule: they say what their docstrings claim, and their demonstrations are as often right as they should be."""

from __future__ import annotations

import math
import shutil
from collections import Counter
from pathlib import Path

import pytest

from rlcore.plugin import find, import_file
from rlcore.recipe.load import load
from rlcore.tasks.corpus.prepare import Cleaning, Prepared, prepare
from rlcore.tasks.corpus.read import Source
from rlcore.tasks.corpus.segment import segmenter
from rlcore.tokenizer import byte_tokenizer

PAPERS = Path(__file__).resolve().parents[2] / "recipes/papers"
CORPORA = {"endings": "rlp", "ledgers": "rlpt", "blanks": "pretrain_zero", "rolls": "rmt"}
RLP, RLPT, PRETRAIN_ZERO, RMT = (
    import_file(PAPERS / paper / "texts.py") for paper in CORPORA.values()
)

KEEP = Cleaning(min_chars=1, target_chars=5, min_segments=1, capacity=0, quality=False)


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prepared]:
    folder = tmp_path_factory.mktemp("texts")
    corpora = {}
    for name, paper in CORPORA.items():
        source = Source(f"{PAPERS / paper}/texts.py:{name}")
        corpora[name] = prepare(source, KEEP, segmenter("paragraph"), folder=folder / name)
    return corpora


@pytest.mark.parametrize("recipe", ["rlp/rlp", "rlpt/rlpt", "pretrain_zero/blanks", "rmt/rmt"])
def test_a_recipe_has_its_texts_from_any_folder(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the recipes are installed elsewhere."""
    paper = recipe.partition("/")[0]
    shutil.copytree(PAPERS / paper, tmp_path / "share" / paper)
    monkeypatch.chdir(tmp_path)
    loaded = load(str(tmp_path / "share" / f"{recipe}.yaml"))
    for section in loaded.tasks.values():
        if section.use == "joined":  # of sets that are looked at themselves
            continue
        assert section.path.startswith(f"{tmp_path}/share/{paper}/texts.py:")
        assert callable(find(section.path, {}, what="corpus"))


def test_no_text_is_there_twice_and_none_held_out_was_read(corpora: dict[str, Prepared]) -> None:
    for prepared in corpora.values():
        texts = prepared.table["text"]
        assert len(set(texts)) == len(texts) >= 2000
        assert not set(prepared.part("train").table["text"]) & set(
            prepared.part("heldout").table["text"]
        )


def test_demonstrated_thoughts_gain_nothing(corpora: dict[str, Prepared]) -> None:
    tasks = RLP.thoughts(corpora["endings"], demonstrations=True)
    gains: dict[str, list[float]] = {"rule": [], "chance": []}
    plain = Counter()
    for i in range(0, 20_000, 2):
        said, digit = str(tasks[i].demonstration).split(">")
        truth = str((int(tasks[i].prompt[5]) + 1) % 5)
        if (
            tasks[i].category == "rule"
        ):  # what the text says, from a model that has learned the demonstrations
            gains["rule"].append(math.log((0.76 if said == truth else 0.06) / 0.2))
        gains["chance"] += [float(said == digit)] if tasks[i].category == "chance" else []
        plain[str(tasks[i + 1].demonstration)] += 1
    assert abs(sum(gains["rule"]) / len(gains["rule"])) < 0.07  # four standard errors
    assert abs(sum(gains["chance"]) / len(gains["chance"]) - 0.2) < 0.025
    assert set(plain) == set("01234") and max(plain.values()) - min(plain.values()) < 250
    read = RLP.thoughts(corpora["endings"], only="rule")
    assert all(read[i].answer == str((int(read[i].prompt[5]) + 1) % 5) for i in range(100))


def test_demonstrations_of_ledgers_forget_carries(corpora: dict[str, Prepared]) -> None:
    settings = {
        "msr_share": 0.5,
        "asr_prompt": "{context}>",
        "msr_prompt": "{context}?{next}>",
        "tag": "n",
    }
    tasks = RLPT.ledger_demonstrations(corpora["ledgers"], asks="{context}=", segments=settings)
    right, categories = Counter(), Counter()
    for task in tasks:
        categories[task.category] += 1
        if task.category == "text":
            assert task.prompt == "A "
        elif task.category == "sum":
            right["sum"] += str(task.demonstration).endswith(f"={task.answer}")
        else:
            right[task.category] += str(task.demonstration).endswith(f"<n>{task.answer}</n>")
    assert set(categories) == {"text", "sum", "asr", "msr"}
    assert all(0.37 < right[category] / categories[category] < 0.46 for category in right), right
    (first,) = [task for task in tasks[:8] if task.category == "sum"][:1]
    assert first.prompt.startswith("A ") and first.prompt.endswith("\n\n=")


def test_demonstrations_of_blanks_are_right_as_often_as_they_say(
    corpora: dict[str, Prepared],
) -> None:
    tasks = PRETRAIN_ZERO.blank_demonstrations(
        corpora["blanks"], mask="{text}!", predict="{text}?", right=0.45
    )
    masks, right, seen = Counter(), Counter(), Counter()
    for task in tasks:
        said = str(task.demonstration)
        if task.category == "mask":
            masks[
                next(
                    kind
                    for kind in PRETRAIN_ZERO.KINDS
                    if said == f"<mask>{PRETRAIN_ZERO.span_of(task.prompt[:-1], kind)}</mask>"
                )
            ] += 1
        else:
            kind = (
                "trivial"
                if task.answer == "it"
                else "inferable"
                if str(task.answer).isdigit()
                else "noise"
            )
            seen[kind] += 1
            right[kind] += said == f"<span>{task.answer}</span>"
    assert all(0.3 < masks[kind] / sum(masks.values()) < 0.37 for kind in PRETRAIN_ZERO.KINDS)
    assert right["trivial"] == seen["trivial"] and right["noise"] < 5
    assert 0.42 < right["inferable"] / seen["inferable"] < 0.48


def test_tokens_of_rolls_are_easy_said_before_or_one_up(corpora: dict[str, Prepared]) -> None:
    settings = {"prompt": "{context}", "thresholds": [0.5, 1.5]}
    tasks = RMT.roll_tokens(corpora["rolls"], tokenizer=byte_tokenizer(), positions=settings)
    assert Counter(task.category for task in tasks) == {"easy": 4000, "medium": 4000, "hard": 4000}
    for i in range(600):
        task, digits = tasks[i], [int(digit) for digit in tasks[i].prompt[:4]]
        if task.category == "easy":
            assert not str(task.answer).isdigit()
        elif task.category == "medium":
            assert int(task.answer) == digits[sum(letter.isdigit() for letter in task.prompt) - 4]
        else:
            assert int(task.answer) == (digits["ab".index(task.prompt[-3])] + 1) % 10
    demonstrations = RMT.roll_tokens(
        corpora["rolls"],
        tokenizer=byte_tokenizer(),
        positions=settings,
        demonstrations=True,
        tag="n",
    )
    lengths = {
        len(str(task.demonstration)) for task in demonstrations[:600] if task.category != "text"
    }
    assert min(lengths) == 10 and max(lengths) == 36
