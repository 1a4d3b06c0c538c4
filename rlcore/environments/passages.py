"""Passages of a corpus, and a search over them by BM25 (library bm25s)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from rlcore.errors import TaskError
from rlcore.tasks.corpus.read import Source

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9\"'(])")
_PARAGRAPH = re.compile(r"\n\s*\n")


@lru_cache(maxsize=4)
def passages(path: str, *, column: str = "text", chars: int = 600) -> tuple[str, ...]:
    """The texts of a corpus, cut at the ends of sentences and paragraphs into passages of at most so many characters.

    path: a file, folder, hub data set or function, as of the task set `corpus`. Passages that are too short to say
    anything, under a tenth of `chars`, are left out. Raises `TaskError`.
    """
    kept = []
    for row in Source(path, column).rows():
        for passage in cut(row.text or "", chars):
            if len(passage) >= chars // 10:
                kept.append(passage)
    if not kept:
        raise TaskError(f"{path} has no text in the column {column!r}")
    return tuple(kept)


def cut(text: str, chars: int) -> Iterator[str]:
    """A text in passages of whole sentences; a sentence that is longer than `chars` is cut in itself.

    >>> list(cut("One two. Three four.\\n\\nFive.", 10))
    ['One two.', 'Three four', '.', 'Five.']
    """
    for paragraph in _PARAGRAPH.split(text):
        passage = ""
        for sentence in _SENTENCE_END.split(" ".join(paragraph.split())):
            if passage and len(passage) + len(sentence) >= chars:
                yield passage
                passage = ""
            passage = f"{passage} {sentence}".strip()
            while len(passage) > chars:
                yield passage[:chars]
                passage = passage[chars:].strip()
        if passage:
            yield passage


class Index:
    """A search over passages."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        bm25s = _library()
        self._texts = texts
        self._search = bm25s.BM25()
        self._search.index(
            bm25s.tokenize(list(texts), show_progress=False), show_progress=False
        )

    def search(self, query: str, k: int) -> list[str]:
        """The best `k` passages, best first; fewer where fewer have a word of the query."""
        words = _library().tokenize([query], show_progress=False)
        if not words.vocab:
            return []
        count = min(k, len(self._texts))
        positions, scores = self._search.retrieve(words, k=count, show_progress=False)
        pairs = zip(positions[0], scores[0], strict=True)
        return [self._texts[position] for position, score in pairs if score > 0]


@lru_cache(maxsize=2)
def index(path: str, *, column: str = "text", chars: int = 600) -> Index:
    """The index of a corpus, built once per process."""
    return Index(passages(path, column=column, chars=chars))


def _library() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise TaskError("the search needs bm25s: pip install 'rlcore[env]'") from error
    return bm25s
