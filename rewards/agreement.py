"""Agreement of a group's completions with each other: a score where there is no reference answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from rewards.thoughts import after_thoughts

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\n+")
_WORD = re.compile(r"\w+|[^\w\s]")


def agreement(completions: Sequence[str], *, n: int = 2, **columns: Any) -> list[float | None]:
    """How far the other completions of the task say what this one says, 0 to 1.

    Source: SelfCheckGPT (arXiv 2303.08896): what a model made up differs from sample to sample. A sentence is contradicted by another
    completion as far as its n-grams of words do not occur there; that is averaged over the others, then
    over the sentences, and this is 1 minus it. 1: all say the same. 0: no other has any of it. The paper's
    better scorers ask a model (entailment, a yes or no); this one needs none. A group of one has no score.
    It rewards saying the same every time, so it is for measuring, or beside a verifier or an entropy bonus.
    n: words of an n-gram; a shorter sentence is one.

    >>> agreement(["It is 4. I am sure.", "It is 4. I am sure.", "Two."], n=1)
    [0.5, 0.5, 0.0]
    """
    if n < 1:
        raise ValueError(f"n is {n}, but an n-gram has at least one word")
    said = [_sentences(after_thoughts(completion), n) for completion in completions]
    scores: list[float | None] = []
    for index, sentences in enumerate(said):
        others = [_all_grams(other) for place, other in enumerate(said) if place != index]
        if not others or not sentences:
            scores.append(None if not others else 0.0)
            continue
        supported = [
            sum(gram in other for gram in grams) / len(grams)
            for grams in sentences
            for other in others
        ]
        scores.append(sum(supported) / len(supported))
    return scores


def _sentences(text: str, n: int) -> list[list[tuple[str, ...]]]:
    """The n-grams of each sentence that has words."""
    sentences = []
    for sentence in _SENTENCE.split(text):
        words = [word.lower() for word in _WORD.findall(sentence)]
        words = [word for word in words if word.isalnum()] or words
        if words:
            size = min(n, len(words))
            starts = range(len(words) - size + 1)
            sentences.append([tuple(words[start : start + size]) for start in starts])
    return sentences


def _all_grams(sentences: Sequence[Sequence[tuple[str, ...]]]) -> set[tuple[str, ...]]:
    return {gram for grams in sentences for gram in grams}
