"""Texts in two subjects for continued training, and a small skill to lose: both also without a download."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from rlcore.errors import TaskError
from rlcore.recipe.build import here
from rlcore.types import Task

Split = Literal["train", "heldout"]
HELD_OUT_ONE_IN = 16
SUBJECTS = {
    "people": ("man", "boy", "king", "aunt"),
    "animals": ("cat", "dog", "fox", "owl"),
    "tools": ("saw", "axe", "pan", "jar"),
}
ACTS = ("sees", "has", "finds", "likes", "takes", "wants")
PLACES = ("here", "there", "inside", "outside", "upstairs", "nearby")


def pieces(
    path: str | list[str],
    *,
    source: str,
    split: Split,
    characters: int = 600,
    size: int | None = None,
) -> list[Task]:
    """Pieces of the documents of one source, for `train_on: all`: the first word is the prompt.

    path: JSON Lines, gzipped or not, with columns text and source; of a list, the first that exists.
    source: what `source` begins with.
    split: heldout is one document in 16, train the others.
    characters: of a piece; the rest of a document is left out where it is shorter.
    size: the first so many pieces; default all.
    """
    tasks = []
    for number, text in enumerate(_documents(here(path), source)):
        if (number % HELD_OUT_ONE_IN == 0) != (split == "heldout"):
            continue
        for start in range(0, len(text) - characters + 1, characters):
            tasks.append(_task(f"{source}/{number}/{start}", text[start : start + characters]))
    if not tasks:
        raise TaskError(
            f"{here(path)} has no document of {characters} characters from {source!r}"
        )
    return tasks[:size]


def sentences(*, subject: str, split: Split, size: int) -> list[Task]:
    """Invented texts of two sentences, such as "the cat sees the owl here.the fox has the dog inside."

    subject: people, animals or tools. No text of one split is in the other.
    """
    rng = random.Random(f"{subject}/{split}")
    tasks: list[Task] = []
    while len(tasks) < size:
        text = " ".join(_sentence(rng, SUBJECTS[subject]) for _ in range(2))
        if _is_held_out(text) == (split == "heldout"):
            tasks.append(_task(f"{subject}/{len(tasks)}", text))
    return tasks


def copies(*, split: Split, size: int) -> list[Task]:
    """The skill of the tiny instruct model: "copy dbf>" is answered by "dbf"."""
    rng = random.Random(f"copies/{split}")
    tasks: list[Task] = []
    while len(tasks) < size:
        word = "".join(rng.choices("abcdefgh", k=3))
        if _is_held_out(word) == (split == "heldout"):
            name = f"copy/{len(tasks)}"
            tasks.append(Task(id=name, prompt=f"copy {word}>", answer=word, demonstration=word))
    return tasks


def skill_and_texts(*, size: int) -> list[Task]:
    """What the tiny instruct model learns from: its skill and texts about people, in turn."""
    texts = sentences(subject="people", split="train", size=size // 2)
    skill = copies(split="train", size=size // 2)
    return [task for pair in zip(texts, skill, strict=True) for task in pair]


def _task(id: str, text: str) -> Task:
    """The prompt takes the first word: a model needs one token to go on from."""
    first = len(text) - len(text.lstrip()) + len(text.split(maxsplit=1)[0])
    return Task(id=id, prompt=text[:first], demonstration=text[first:], category="text")


def _documents(path: str, source: str) -> Iterator[str]:
    reads = gzip.open if path.endswith(".gz") else open
    if not Path(path).is_file():
        raise TaskError(
            f"{path} does not exist: name a JSON Lines file with columns text and source as path"
        )
    with reads(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["source"].startswith(source):
                yield row["text"]


def _sentence(rng: random.Random, nouns: Sequence[str]) -> str:
    one, other = rng.sample(nouns, 2)
    return f"the {one} {rng.choice(ACTS)} the {other} {rng.choice(PLACES)}."


def _is_held_out(text: str) -> bool:
    return random.Random(text).random() < 1 / HELD_OUT_ONE_IN
