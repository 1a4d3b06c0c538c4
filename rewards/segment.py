"""Rewards for predicted text: a segment, a span, a token.

The prediction stands between tags; a completion without them is wrong-format and 0. With `tag: ""` the
whole completion is the prediction, for a prompt that is the text itself.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from rlcore import Verdict, reward


def normalised(text: str) -> str:
    """Casefolded words with single spaces, without punctuation except between digits.

    Symbols such as + stay.

    >>> normalised("  The cat\\u2019s 2+2=4, said Ann; 3.5 or 7-3.")
    'the cats 2+2=4 said ann 3.5 or 7-3'
    """
    letters = unicodedata.normalize("NFKC", text).casefold()
    padded = f" {letters} "
    kept: list[str] = []
    for i, letter in enumerate(letters):
        before, after = padded[i], padded[i + 2]
        is_punctuation = unicodedata.category(letter).startswith("P")
        if not is_punctuation or (before.isdigit() and after.isdigit()):
            kept.append(letter)
    return " ".join("".join(kept).split())


def prediction(completion: str, tag: str) -> str | None:
    """The text in the last `<tag>...</tag>`, or without a tag all of it; None if there is none, or nothing in it.

    >>> prediction("so <next>it rains</next>", "next")
    'it rains'
    """
    if not tag:
        return completion.strip() or None
    name = re.escape(tag)
    pattern = rf"<{name}>((?:(?!<{name}>).)*?)</{name}>"
    blocks = re.findall(pattern, completion, flags=re.DOTALL)
    if not blocks or not blocks[-1].strip():
        return None
    return blocks[-1].strip()


@reward
def segment(
    completion: str, answer: str, *, tag: str = "next", **columns: Any
) -> float | Verdict:
    """1 if the prediction is the next segment: the strict reward of RLPT (arXiv 2509.19249).

    Letter case, punctuation and spaces do not count.

    >>> segment("I think <next>it rains</next>", "It rains.")
    1.0
    >>> segment(" it rains", "It rains.", tag="")
    1.0
    """
    predicted = prediction(completion, tag)
    if predicted is None:
        return _no_prediction(tag)
    predicted = normalised(predicted)
    return float(bool(predicted) and predicted == normalised(answer))


@reward
def segment_prefix(
    completion: str,
    answer: str,
    *,
    reference: Sequence[str] = (),
    tag: str = "next",
    **columns: Any,
) -> float | Verdict:
    """1 if the prediction is a beginning of the text that follows: RLPT's prefix reward by rule.

    `reference` holds the following segments. The prediction must be the first one, two, ... of
    them. One that ends within a segment, or says more than the reference, earns 0.

    >>> following = ["It rains.", "We go.", "Bye."]
    >>> segment_prefix("<next>It rains. We go</next>", "It rains.", reference=following)
    1.0
    """
    predicted = prediction(completion, tag)
    if predicted is None:
        return _no_prediction(tag)
    predicted = normalised(predicted)
    segments = list(reference) or [answer]
    beginnings = [normalised(" ".join(segments[: n + 1])) for n in range(len(segments))]
    return float(bool(predicted) and predicted in beginnings)


@reward
def span(
    completion: str, answer: str | None, *, tag: str = "span", **columns: Any
) -> float | Verdict:
    """1 if the prediction is the hidden span exactly (PretrainZero, arXiv 2512.03442).

    Spaces do not count.

    >>> span("<span>Bo</span>", "Bo"), span("<span>bo</span>", "Bo")
    (1.0, 0.0)
    """
    predicted = prediction(completion, tag)
    if predicted is None:
        return _no_prediction(tag)
    return float(predicted.split() == str(answer or "").split())


@reward
def next_token(
    completion: str, answer: str, *, tag: str = "next", **columns: Any
) -> float | Verdict:
    """1 if the prediction is the text of the next token, without outer spaces (arXiv 2509.24375).

    With `tag: ""` the prediction is the whole completion, for a policy that says the token without
    thinking (`max_tokens: 1`).

    >>> next_token("<think>a verb</think><next>runs</next>", " runs")
    1.0
    >>> next_token("runs", " runs", tag="")
    1.0
    """
    predicted = prediction(completion, tag)
    if predicted is None:
        return _no_prediction(tag)
    return float(predicted == answer.strip())


@reward
def near_budget(
    completion: str, *, completion_ids: Sequence[int], budget: int, **columns: Any
) -> float:
    """A triangle over the number of tokens: 1 at `budget`, 0 at none and from twice that on.

    `budget` is a parameter or a column of the task. Source: arXiv 2509.24375.

    >>> [near_budget("", completion_ids=[0] * n, budget=4) for n in (0, 2, 4, 6, 8, 9)]
    [0.0, 0.5, 1.0, 0.5, 0.0, 0.0]
    """
    return max(0.0, 1.0 - abs(len(completion_ids) / budget - 1.0))


def _no_prediction(tag: str) -> Verdict:
    reason = f"there is no <{tag}>...</{tag}> with text in it" if tag else "it has no text"
    return Verdict(value=0.0, status="wrong-format", reason=reason)
