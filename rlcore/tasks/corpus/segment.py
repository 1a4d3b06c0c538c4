"""Where the segments of a document end.

Segments put end to end are the document, character by character.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from rlcore.errors import TaskError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Unit = Literal["sentence", "paragraph", "tokens"]
Segmenter = Callable[[str], list[int]]
"""Text -> the place after each segment's last character; rising, and the last one is len(text)."""

_PARAGRAPH = re.compile(r"\n\s*\n")


def segmenter(
    unit: Unit, *, tokenizer: PreTrainedTokenizerBase | None = None, tokens: int = 32
) -> Segmenter:
    """sentence: by the package syntok (rules for European languages, no download), within
    paragraphs; paragraph: at blank lines; tokens: `tokens` of the tokenizer at a time. White space
    belongs to the segment before it. Raises `TaskError`.

    >>> segmenter("paragraph")("One. Two.\\n\\nThree.")
    [11, 17]
    """
    if unit == "paragraph":
        return _paragraphs
    if unit == "tokens":
        if tokenizer is None:
            raise TaskError("segments of tokens need a tokenizer: set the corpus's `tokenizer`")
        return lambda text: _tokens(text, tokenizer, tokens)
    try:
        from syntok.segmenter import split
        from syntok.tokenizer import Tokenizer
    except ImportError as error:
        raise TaskError(
            "sentences are found with syntok: pip install 'rlcore[corpus]', or use unit: paragraph"
        ) from error
    tokenize = Tokenizer(
        emit_hyphen_or_underscore_sep=True, replace_not_contraction=False
    ).tokenize

    def sentences(text: str) -> list[int]:
        ends, start = [], 0
        for end in _paragraphs(text):
            tokens_of_paragraph = tokenize(text[start:end])
            firsts = [sentence[0].offset for sentence in split(tokens_of_paragraph) if sentence]
            ends += [start + first for first in firsts[1:]]
            ends.append(end)
            start = end
        return _rising(ends, len(text))

    return sentences


def cut(text: str, ends: list[int]) -> list[str]:
    """The segments themselves."""
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _paragraphs(text: str) -> list[int]:
    return _rising([match.end() for match in _PARAGRAPH.finditer(text)], len(text))


def _tokens(text: str, tokenizer: PreTrainedTokenizerBase, size: int) -> list[int]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    last_tokens = encoded["offset_mapping"][size - 1 :: size]
    return _rising([end for _, end in last_tokens], len(text))


def _rising(ends: list[int], length: int) -> list[int]:
    """Ends in ascending order without repeats, the last one at `length`.

    A character of several tokens and an empty paragraph give repeats.
    """
    inner = {end for end in ends if 0 < end < length}
    return [*sorted(inner), length]
