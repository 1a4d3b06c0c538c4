"""Retrieval-augmented mask prediction (MaskSearch, arXiv 2505.20285): names and numbers masked in real text, to be filled in
with the help of a search. Difficulty is the number of masks, 1 to 4.

    prompt "... [mask 1], a famous English antiquary, was born in [mask 2] ..."     answer "JOHN AUBREY; 1626"

Tasks only: a recipe adds the tool, `env: {tools: [{use: search, corpus: texts.jsonl}]}`, and the rewards `recall` and
`tool_format`. The corpus that is searched may be the one that the tasks are made of, as in the paper; the passage itself can then be
found. What is masked is chosen by rules, where the paper asks a language model for salient entities.
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

from rlcore.environments.passages import index, passages
from rlcore.environments.task_set import Split, task_set
from rlcore.errors import TaskError
from rlcore.tasks.corpus.template import check_template, fill
from rlcore.types import Message, Task

MOST_MASKS = 4
NUMBER_WEIGHT = 20
"""Numbers are drawn as if they were words of so many letters."""
PROMPT = """In this text, words are masked.

{text}

Look the text up with the tool search: a query is a few of its words. Then write only the masked words, in their order, \
with semicolons between them."""

_NAME = r"[A-Z][a-z]+(?:(?: (?:of|de|van|von|the))? [A-Z][a-z]+)*"
_ENTITY = re.compile(rf"\b(?:\d[\d,.]*\d|{_NAME})\b")
_LOWER = re.compile(r"\b[a-z]+\b")
_SENTENCE_START = re.compile(r"(?:^|[.!?:;]\W+|[\"'(\[] *)$")


class _Masked(NamedTuple):
    passage: str
    spans: tuple[tuple[int, int], ...]
    """(start, end) of each mask, in order."""

    @property
    def key(self) -> str:
        # Not the masks: what was learned of a passage holds for all of them.
        return self.passage

    @property
    def category(self) -> str:
        return f"{len(self.spans)}-masks"

    @property
    def level(self) -> int:
        return len(self.spans)

    @property
    def answers(self) -> list[str]:
        return [self.passage[start:end] for start, end in self.spans]

    @property
    def text(self) -> str:
        parts, end = [], 0
        for number, (start, stop) in enumerate(self.spans, start=1):
            parts += [self.passage[end:start], f"[mask {number}]"]
            end = stop
        return "".join([*parts, self.passage[end:]])


def masked_text(
    path: str,
    *,
    split: Split = "train",
    size: int = 2_000,
    seed: int = 0,
    masks: Sequence[int] = (1, 2, 3, 4),
    column: str = "text",
    chars: int = 600,
    prompt: str = PROMPT,
    demonstrations: bool = False,
) -> Sequence[Task]:
    """Passages of a corpus with so many masks (one of the counts, drawn evenly from those that the passage has entities for).

    Task i is a function of (seed, split, i), the corpus and the settings; passages are held out, whatever is masked. Masked are
    names and numbers that occur once in the passage, do not begin it and are not the first word of a sentence, drawn in
    proportion to their length, numbers before words. chars: longest passage. prompt: has a field {text}. demonstrations: with
    a search for the words around the first mask, what it finds, and the answer. Raises `TaskError`.
    """
    check_template(prompt, "text")
    if not masks or not 1 <= min(masks) <= max(masks) <= MOST_MASKS:
        raise TaskError(f"masked_text.masks must be from 1 to {MOST_MASKS}, got {tuple(masks)}")
    texts = passages(path, column=column, chars=chars)
    words = common_words(path, column=column, chars=chars)

    def draw(rng: random.Random) -> _Masked:
        for _ in range(10_000):
            passage = rng.choice(texts)
            entities = maskable(passage, words)
            counts = [count for count in masks if count <= len(entities)]
            if len(passage) >= chars // 3 and counts:
                chosen = _drawn(entities, rng.choice(counts), passage, rng)
                return _Masked(passage, chosen)
        raise TaskError(f"no passage of {path} has {min(masks)} names or numbers to mask")

    def make(id: str, problem: _Masked, rng: random.Random) -> Task:
        answer = "; ".join(problem.answers)
        demonstration = None
        if demonstrations:
            search = index(path, column=column, chars=chars).search
            query = words_around(problem.text)
            demonstration = _conversation(query, "\n\n".join(search(query, 1)), answer)
        return Task(
            id=id,
            prompt=fill(prompt, text=problem.text),
            answer=answer,
            demonstration=demonstration,
            columns={"masked": problem.text},
        )

    return task_set("masked_text", draw, make, split=split, size=size, seed=seed)


@lru_cache(maxsize=4)
def common_words(path: str, *, column: str, chars: int) -> frozenset[str]:
    """The words that a corpus has in lower case: no names, where they begin with a capital."""
    words: set[str] = set()
    for passage in passages(path, column=column, chars=chars):
        words.update(_LOWER.findall(passage))
    return frozenset(words)


def maskable(passage: str, common: Collection[str] = ()) -> list[tuple[int, int]]:
    """(start, end) of the names and numbers that may be masked. common: words that make no name.

    >>> passage = "Ann met Bo Li in 1626. If Ann left, If she did, Rome was near."
    >>> [passage[start:end] for start, end in maskable(passage, {"if"})]
    ['Bo Li', '1626', 'Rome']
    """
    spans = []
    lowered = passage.lower()
    for match in _ENTITY.finditer(passage):
        words = match[0].lower().split()
        starts_sentence = _SENTENCE_START.search(passage[: match.start()])
        recurs = any(lowered.count(word) > 1 for word in words if word not in common)
        if not (starts_sentence or recurs or all(word in common for word in words)):
            spans.append(match.span())
    return spans


def _drawn(
    spans: Sequence[tuple[int, int]], count: int, passage: str, rng: random.Random
) -> tuple[tuple[int, int], ...]:
    left, chosen = list(spans), []
    for _ in range(count):
        weights = []
        for start, end in left:
            weights.append(NUMBER_WEIGHT if passage[start].isdigit() else end - start)
        (position,) = rng.choices(range(len(left)), weights)
        chosen.append(left.pop(position))
    return tuple(sorted(chosen))


def words_around(masked: str, count: int = 6) -> str:
    """The words next to the first mask, on both sides."""
    before, _, after = masked.partition("[mask 1]")
    after = re.sub(r"\[mask \d\]", " ", after)
    return " ".join([*before.split()[-count:], *after.split()[:count]])


def fill_from(masked: str, passage: str) -> list[str] | None:
    """What stands in a passage at the masks of a text; None if it is another passage.

    >>> fill_from("Ann met [mask 1] in [mask 2].", "Ann met Bo Li in 1626.")
    ['Bo Li', '1626']
    """
    parts = re.split(r"\[mask \d\]", masked)
    match = re.fullmatch("(.+?)".join(map(re.escape, parts)), passage)
    return list(match.groups()) if match else None


def _conversation(query: str, result: str, answer: str) -> list[Message]:
    """A demonstration: one search, and the answer."""
    function = {"name": "search", "arguments": {"query": query}}
    call = {"type": "function", "function": function}
    return [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "search", "content": result},
        {"role": "assistant", "content": answer},
    ]
