"""Rewards on the text alone: the answer as it is written, the format, repetition, the script it is written in."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Sequence
from typing import Any

from rlcore import Verdict, reward


@reward
def exact(
    completion: str, answer: Any, *, after: str | None = None, finished: bool = True, **columns: Any
) -> float | Verdict:
    """1 if the answer is the gold text, spaces at the ends aside, else 0; with `after`, the text after the last such marker.

    An answer without the marker is `wrong-format` and 0; one that was cut off before its end is 0.

    >>> exact("7+15=22;22+4=26", "26", after="=")
    1.0
    """
    if not finished:
        return 0.0
    if after is not None:
        _, marker, completion = completion.rpartition(after)
        if not marker:
            return Verdict(
                value=0.0, status="wrong-format", reason=f"there is no {after!r} in the answer"
            )
    return float(completion.strip() == str(answer).strip())


@reward
def match(
    completion: str,
    answer: Any,
    *,
    within: str | None = None,
    contains: bool = False,
    finished: bool = True,
    **columns: Any,
) -> float | Verdict | None:
    """1 if the answer has the words of the gold text, else 0: case, punctuation, articles (a, an, the) and spaces do not count.

    A gold may be a list: any counts; without a gold there is no score. within: compare the content of the last
    `<within>...</within>`, for example "answer"; a text without it is `wrong-format` and 0. contains: the gold's words may stand
    anywhere in the answer, which an answer that lists every candidate also earns. An answer cut off before its end is 0, unless
    the tag is closed. Normalised as SQuAD does (arXiv 1606.05250).

    >>> match("The Eiffel Tower.", ["tour eiffel", "eiffel tower"])
    1.0
    """
    answers = [
        words
        for one in (answer if isinstance(answer, list | tuple) else [answer])
        if (words := _plain(one))
    ]
    if not answers:
        return None
    if within is not None:
        found = _last_span(completion, within)
        if found is None:
            return Verdict(
                value=0.0,
                status="wrong-format",
                reason=f"there is no <{within}>...</{within}> in the answer",
            )
        completion = found
    elif not finished:
        return 0.0
    said = _plain(completion)
    return float(
        any(f" {words} " in f" {said} " if contains else words == said for words in answers)
    )


@reward
def tags(
    completion: str,
    *,
    names: Sequence[str] = ("think", "answer"),
    finished: bool = True,
    **columns: Any,
) -> float:
    """1 if the answer is exactly `<think>...</think><answer>...</answer>`, else 0: each tag of `names` once, in order, not empty.

    Only white space may stand around the blocks. Source: the format reward of DeepSeek-R1 (arXiv 2501.12948).

    >>> tags("<think>2 and 2</think> <answer>4</answer>")
    1.0
    """
    if not finished or any(
        completion.count(tag) != 1 for name in names for tag in (f"<{name}>", f"</{name}>")
    ):
        return 0.0
    shape = r"\s*".join(f"<{name}>(.*?)</{name}>" for name in map(re.escape, names))
    match = re.fullmatch(rf"\s*{shape}\s*", completion, flags=re.DOTALL)
    return float(match is not None and all(block.strip() for block in match.groups()))


@reward
def spans(
    completion: str, *, names: Sequence[str] = ("think", "answer"), **columns: Any
) -> Verdict:
    """The share of the tags in `names` that stand in the answer once, not empty and not inside one another.

    From 0 to 1, with a part `spans/<name>` of 0 or 1 for each tag, which a mix can weigh on its own; text around the blocks does
    not matter. A tag that is doubled, not closed or overlaps another earns nothing. Source: the format reward of *Train Long,
    Think Short* (arXiv 2508.08940).

    >>> spans("<think>2 and 2</think> so <answer>4").value
    0.5
    """
    places = {name: (completion.find(f"<{name}>"), completion.find(f"</{name}>")) for name in names}
    whole = {
        name: float(
            completion.count(f"<{name}>") == completion.count(f"</{name}>") == 1
            and bool(completion[start + len(name) + 2 : end].strip())
            and not any(
                start < edge < end for other in names if other != name for edge in places[other]
            )
        )
        for name, (start, end) in places.items()
    }
    return Verdict(value=sum(whole.values()) / len(whole), parts=whole)


@reward
def repetition(completion: str, *, n: int = 3, **columns: Any) -> float:
    """Minus the share of the answer's n-grams that have occurred before in it: 0 where none repeats, towards -1 for a loop.

    A word is a run of letters and digits, or one character of a script without spaces (Chinese, Japanese); case does not count.
    Texts of fewer than n words get 0. Source: the repetition penalty of arXiv 2502.03373.

    >>> repetition("so on so on so", n=2)
    -0.5
    """
    if n < 1:
        raise ValueError(f"n is {n}, but must be 1 or more")
    words = re.findall(
        r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+", completion.lower()
    )
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) - 1.0 if grams else 0.0


@reward
def script(completion: str, *, names: Sequence[str] = ("latin",), **columns: Any) -> float | None:
    """The share of the answer's letters that belong to the writing systems in `names`, 0 to 1; None where it has no letters.

    Names as Unicode's: latin, cyrillic, greek, arabic, hebrew, devanagari, cjk (Chinese), hiragana, katakana, hangul, thai.
    Formulas between dollars or `\\(..\\)`, LaTeX commands and text in backquotes are not counted. It tells Chinese from English,
    not English from French. In the place of the language consistency reward of DeepSeek-R1 (arXiv 2501.12948).

    >>> script("The answer is \u56db", names=["latin"])
    0.9166666666666666
    """
    prose = re.sub(
        r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|`[^`]*`|\\[A-Za-z]+", " ", completion, flags=re.DOTALL
    )
    wanted = tuple(name.upper() for name in names)
    letters = [
        unicodedata.name(letter, "").startswith(wanted) for letter in prose if letter.isalpha()
    ]
    return sum(letters) / len(letters) if letters else None


def _last_span(text: str, name: str) -> str | None:
    before, closed, _ = text.rpartition(f"</{name}>")
    _, opened, content = before.rpartition(f"<{name}>")
    return content if closed and opened else None


def _plain(text: Any) -> str:
    lowered = "" if text is None else str(text).lower()
    bare = "".join(" " if letter in string.punctuation else letter for letter in lowered)
    return " ".join(word for word in bare.split() if word not in ("a", "an", "the"))
