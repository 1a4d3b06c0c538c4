"""Completions cut into steps: which of a completion's tokens make up each step.

    split: newline                         a step a line
    split: sentence                        a step a sentence or line
    split: {use: delimiter, at: ";"}       a step ends with the delimiter
    split: {use: regex, at: "Step \\d+:"}  a step begins with each heading, or ends with each sign
    split: {use: tokens, n: 32}            n tokens a step, whatever the text says
    split: turn                            a step a turn, of rollouts with an environment
    split: "my_steps.py:cut"               your own: called with its parameters, returns a `Splitter`

Steps are token spans that follow each other and cover the completion, end-of-sequence included. A
step ends where its text ends. Spaces belong to the step behind them, as in the tokens of most
models, which begin with a space; a line break belongs to the line that it ends. A token that holds
the end of one step and the beginning of the next belongs to the one it begins in, and two ends in
one token are one end. A character of several tokens is never cut: a step goes on to the token that
completes it.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from rlcore.errors import RecipeError
from rlcore.types import Rollout, Span

Decode = Callable[[list[int]], str]
"""Text of completion tokens, special tokens left out."""


Splitter = Callable[[Sequence[int], Decode], list[Span]]
"""From a completion's tokens [L] to its steps. A completion without tokens has none."""

Cuts = Callable[[str], Iterable[int]]
"""Positions in a text where a step ends, in characters."""

SPLITTERS = {
    name: f"rlcore.credit.split:{function}"
    for name, function in {
        "newline": "newline",
        "sentence": "sentence",
        "delimiter": "delimiter",
        "regex": "regex",
        "tokens": "fixed",
        "turn": "turn",
    }.items()
}
"""Name in a recipe -> where it is."""


_LINE_END = re.compile(r"(?<!\s)\s*\n")
_SENTENCE_END = re.compile(
    r"""[.!?]+["'”’)\]*_]*(?=[ \t]+\S)|[。！？]+["'”’」』）]*|(?<!\s)\s*\n""",
)
_ITEM = re.compile(r"(?:^|\n)[ \t]*(?:[-*•][ \t]+)?\**(?:\d{1,3}|[A-Za-z])\Z")
"""What stands before the point of `2. Then`."""
_LATEX = re.compile(
    r"\\\[.{0,2000}?\\\]|\\\(.{0,2000}?\\\)|\$\$.{0,2000}?\$\$"
    r"|\\begin\{(\w+\*?)\}.{0,2000}?\\end\{\1\}"
    r"|(?<![\\\d])\$(?!\s)(?:\\.|[^$\\\n]){1,2000}?(?<!\s)\$(?!\d)",
    re.DOTALL,
)


def split_steps(token_ids: Sequence[int], decode: Decode, splitter: Splitter) -> list[Span]:
    """Steps of a completion, checked: they cover `token_ids` [L] exactly, in order, and none is
    empty. Raises `RecipeError`.
    """
    spans = [Span(*span) for span in splitter(token_ids, decode)]
    ends = [0, *(span.end for span in spans)]
    starts = [*(span.start for span in spans), len(token_ids)]
    if starts != ends or any(span.end <= span.start for span in spans):
        raise RecipeError(
            f"a step splitter must return spans that follow each other from 0 to {len(token_ids)}, the tokens of the completion, "
            f"but returned {[tuple(span) for span in spans[:5]]}"
        )
    return spans


def turn() -> Splitter:
    """Each completion of a rollout with an environment is a step."""
    return whole


def whole(ids: Sequence[int], decode: Decode) -> list[Span]:
    """The completion as one step."""
    return [Span(0, len(ids))] if ids else []


def turn_spans(rollout: Rollout) -> list[Span]:
    """The completions of a rollout, as spans of all tokens that the policy wrote."""
    spans, start = [], 0
    for completion in rollout.completions:
        end = start + completion.end - completion.start
        spans.append(Span(start, end))
        start = end
    return spans


def newline() -> Splitter:
    """A step ends with its line break; empty lines belong to the step before them."""
    return by_text(lambda text: [match.end() for match in _LINE_END.finditer(text)])


def sentence() -> Splitter:
    """A step ends with a full stop, question or exclamation mark before white space, or with a line
    break.

    A point inside a number or behind the number of a list's item ends nothing, nor does anything
    inside LaTeX; a point after an abbreviation does, as no list of abbreviations is kept.
    """
    return by_text(_sentence_ends)


def delimiter(*, at: str) -> Splitter:
    """A step ends with the text `at`."""
    if not at:
        raise RecipeError("split delimiter needs a text that ends a step, for example at: ';'")
    return by_text(lambda text: [match.end() for match in re.finditer(re.escape(at), text)])


def regex(*, at: str) -> Splitter:
    """What the regular expression `at` matches begins a step if it holds a letter or digit, as the
    heading `Step 2:` does; signs and line breaks end one.

    Raises `RecipeError` if it is none.
    """
    try:
        pattern = re.compile(at)
    except re.error as error:
        raise RecipeError(f"split regex: {at!r} is not a regular expression: {error}") from None

    def cuts(text: str) -> list[int]:
        matches = list(pattern.finditer(text))
        return [
            match.start() if re.search(r"[^\W_]", match[0]) else match.end()
            for match in matches
        ]

    return by_text(cuts)


def fixed(*, n: int) -> Splitter:
    """`n` tokens a step, the last one shorter."""
    if n < 1:
        raise RecipeError(f"split tokens needs n of at least 1, not {n}")

    def split(token_ids: Sequence[int], decode: Decode) -> list[Span]:
        return [
            Span(start, min(start + n, len(token_ids))) for start in range(0, len(token_ids), n)
        ]

    return split


def by_text(cuts: Cuts) -> Splitter:
    """A splitter from a function that knows only the text.

    Spaces before a cut go to the step behind it. Ends after which only white space follows are
    left out.
    """

    def split(token_ids: Sequence[int], decode: Decode) -> list[Span]:
        ids = list(token_ids)
        if not ids:
            return []
        text = decode(ids)
        ends, last = text_ends(ids, decode), len(text.rstrip())
        places = {len(text[:cut].rstrip(" \t")) for cut in cuts(text)}
        inner = {bisect_left(ends, cut) + 1 for cut in places if 0 < cut < last}
        edges = [0, *sorted(inner - {len(ids)}), len(ids)]
        return [Span(start, end) for start, end in zip(edges, edges[1:], strict=False)]

    return split


def _sentence_ends(text: str) -> list[int]:
    """Ends of sentences and lines, none of them inside LaTeX or behind the number of an item."""
    ends = []
    blocks = [match.span() for match in _LATEX.finditer(text)]
    block = 0
    for match in _SENTENCE_END.finditer(text):
        while block < len(blocks) and blocks[block][1] <= match.start():
            block += 1
        inside = block < len(blocks) and blocks[block][0] < match.end() < blocks[block][1]
        line = text.rfind("\n", 0, match.start()) + 1
        item = match[0].startswith(".") and _ITEM.search(text[line : match.start()])
        if not inside and not item:
            ends.append(match.end())
    return ends


def text_ends(token_ids: Sequence[int], decode: Decode) -> list[int]:
    """How many characters of the text are complete after each token, [L], never falling; the last
    is the text's length.

    A token's text depends on its neighbours (bytes that make one character, spaces that a first
    token drops), so tokens are decoded together with the piece before them, and a piece ends
    where no unfinished character, shown as U+FFFD, is left.
    """
    ids = list(token_ids)
    ends = []
    # ids[:start] have `done` characters; `context_text` is the text of ids[context:start].
    context = 0
    start = 0
    done = 0
    context_text = ""
    for position in range(len(ids)):
        piece = decode(ids[context : position + 1])[len(context_text) :]
        complete = piece.rstrip("\ufffd")
        ends.append(done + len(complete))
        if piece and complete == piece:
            done += len(piece)
            context = start
            start = position + 1
            context_text = decode(ids[context:start])
    total = len(decode(ids))
    return [min(end, total) for end in ends[:-1]] + [total]
