"""Rewards on the text alone: the answer as written, format, repetition, writing system."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from rewards.thoughts import after_thoughts
from rlcore import Verdict, reward

_ARTICLES = ("a", "an", "the")
_PUNCTUATION = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        ("[\u2010-\u2015\u2212]", "-"),
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (r"(?<=\w)['\u2019\u02bc](?=\w)", ""),
        (r"(?<![^\W\d_])([^\W\d_])\.(?=[^\W\d_]\b)", r"\1"),
        # signs that change a value or a name, in characters that are no punctuation
        (r"(?<![\w)])-(?=[\d.])", "\ue000"),
        (r"(?<=\d)\.(?=\d)|(?<!\w)\.(?=\d)", "\ue001"),
        (r"(?<=\d)/(?=\d)", "\ue002"),
        (r"(?<=\d) ?%", "\ue003"),
        (r"(?<=[^\W\d_])#", "\ue004"),
        (r"\s*([<>=\u2264\u2265\u2260])\s*", r" \1 "),
    )
)
"""What is dropped within a word, `isn't` and `U.S.A.`, and which signs stay."""
_KEPT = str.maketrans("\ue000\ue001\ue002\ue003\ue004", "-./%#")


@reward
def exact(
    completion: str,
    answer: Any,
    *,
    after: str | None = None,
    finished: bool = True,
    **columns: Any,
) -> float | Verdict | None:
    """1 if the completion is the reference answer, except for outer spaces, else 0.

    What stands before the last `</think>` is ignored. The answer may be a list, of which any
    counts; without an answer there is no score. after: compare only the text after the last such
    marker; a completion without it is `wrong-format` and 0. A completion that was cut off before
    its end is 0.

    >>> exact("7+15=22;22+4=26", "26", after="=")
    1.0
    """
    references = [text for one in _all(answer) if (text := _text(one))]
    if not references:
        return None
    if not finished:
        return 0.0
    completion = after_thoughts(completion)
    if after is not None:
        _, marker, completion = completion.rpartition(after)
        if not marker:
            return _wrong_format(f"there is no {after!r} in the completion")
    return float(completion.strip() in references)


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
    """1 if the completion has the words of the reference answer, else 0.

    Case, punctuation, articles (a, an, the) and spaces do not count, as in SQuAD (arXiv
    1606.05250), nor how Unicode writes a letter. Signs do: `-5`, `50%`, `C++`, `C#`, `x > 5`, `1.5`
    and `1/2`; `2,500` is 2500. A text of articles alone keeps them: answer A of a choice. What
    stands before the last `</think>` is ignored. The answer may be a list, of which any counts;
    without an answer there is no score.
    within: compare the content of the last `<within>...</within>`, for example "answer"; a text
    without it is `wrong-format` and 0. contains: the words may stand anywhere, which a completion
    that lists every candidate also earns. A completion that was cut off before its end is 0, unless
    the tag is closed.

    >>> match("The Eiffel Tower.", ["tour eiffel", "eiffel tower"])
    1.0
    """
    references = [words for one in _all(answer) if (words := _plain(_text(one)))]
    if not references:
        return None
    completion = after_thoughts(completion)
    if within is not None:
        block = _last_block(completion, within)
        if block is None:
            return _wrong_format(f"there is no <{within}>...</{within}> in the completion")
        completion = block
    elif not finished:
        return 0.0
    words = _plain(completion)
    if contains:
        return float(any(f" {reference} " in f" {words} " for reference in references))
    return float(words in references)


@reward
def recall(
    completion: str,
    answer: Any,
    *,
    penalised: bool = False,
    finished: bool = True,
    **columns: Any,
) -> float | None:
    """The fraction of the words of the reference answer that are in the completion, 0 to 1.

    Words are compared as by `match`, each as often as it occurs; their order does not count. The
    answer may be a list, of which the best counts. What stands before the last `</think>` is
    ignored, and a completion that was cut off before its end is 0. A completion that lists
    everything has full recall: penalised multiplies by (words of the reference) / (words of the
    completion) where the completion has more. Source: the answer reward of MaskSearch (arXiv
    2505.20285); the form of the penalty is ours.

    >>> recall("Rome, Paris or Bonn", "Paris")
    1.0
    >>> recall("Rome, Paris or Bonn", "Paris", penalised=True)
    0.25
    """
    references = [words for one in _all(answer) if (words := _plain(_text(one)))]
    if not references:
        return None
    if not finished:
        return 0.0
    words = Counter(_plain(after_thoughts(completion)).split())
    return max(_recall(words, reference.split(), penalised) for reference in references)


def _recall(words: Counter[str], reference: Sequence[str], penalised: bool) -> float:
    common = words & Counter(reference)
    share = common.total() / len(reference)
    if not penalised or words.total() <= len(reference):
        return share
    return share * len(reference) / words.total()


@reward
def tags(
    completion: str,
    *,
    names: Sequence[str] = ("think", "answer"),
    finished: bool = True,
    **columns: Any,
) -> float:
    """1 if the completion is exactly `<think>...</think><answer>...</answer>`, else 0.

    Each tag of `names` must occur once, in order, and not be empty; only white space may stand
    around the blocks. Source: the format reward of DeepSeek-R1 (arXiv 2501.12948).

    >>> tags("<think>2 and 2</think> <answer>4</answer>")
    1.0
    """
    if not finished:
        return 0.0
    for name in names:
        if completion.count(f"<{name}>") != 1 or completion.count(f"</{name}>") != 1:
            return 0.0
    blocks = [f"<{re.escape(name)}>(.*?)</{re.escape(name)}>" for name in names]
    shape = r"\s*".join(blocks)
    match = re.fullmatch(rf"\s*{shape}\s*", completion, flags=re.DOTALL)
    return float(match is not None and all(block.strip() for block in match.groups()))


@reward
def spans(
    completion: str, *, names: Sequence[str] = ("think", "answer"), **columns: Any
) -> Verdict:
    """The fraction of the tags in `names` that occur once, not empty and not inside another one.

    From 0 to 1, with a part `spans/<name>` of 0 or 1 for each tag, which `aggregate` can weigh;
    text around the blocks does not matter. A tag that is doubled, not closed or overlaps another
    earns nothing. Source: the format reward of *Train Long, Think Short* (arXiv 2508.08940).

    >>> spans("<think>2 and 2</think> so <answer>4").value
    0.5
    """
    edges = {
        name: (completion.find(f"<{name}>"), completion.find(f"</{name}>")) for name in names
    }
    parts: dict[str, float] = {}
    for name, (start, end) in edges.items():
        once = completion.count(f"<{name}>") == completion.count(f"</{name}>") == 1
        content = completion[start + len(name) + 2 : end].strip()
        others = [edges[other] for other in names if other != name]
        inside = [edge for pair in others for edge in pair if start < edge < end]
        parts[name] = float(once and bool(content) and not inside)
    return Verdict(value=sum(parts.values()) / len(parts), parts=parts)


@reward
def repetition(completion: str, *, n: int = 3, **columns: Any) -> float:
    """Minus the fraction of n-grams that occurred before in the completion: 0 to -1 for a loop.

    A word is a run of letters and digits, or one character of a script without spaces (Chinese,
    Japanese); case does not count. Texts of fewer than n words get 0. Source: the repetition
    penalty of arXiv 2502.03373.

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
def script(
    completion: str, *, names: Sequence[str] = ("latin",), **columns: Any
) -> float | None:
    """The fraction of letters in the writing systems `names`, 0 to 1; None without any letters.

    Names are Unicode's: latin, cyrillic, greek, arabic, hebrew, devanagari, cjk (Chinese),
    hiragana, katakana, hangul, thai. Formulas between dollars or `\\(..\\)`, LaTeX commands and
    text in backquotes are not counted. It tells Chinese from English, not English from French. It
    stands for the language consistency reward of DeepSeek-R1 (arXiv 2501.12948).

    >>> script("The answer is \u56db", names=["latin"])
    0.9166666666666666
    """
    prose = re.sub(
        r"\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]|`[^`]*`|\\[A-Za-z]+",
        " ",
        completion,
        flags=re.DOTALL,
    )
    wanted = tuple(map(_script, names))
    letters = [
        unicodedata.name(letter, "").startswith(wanted) for letter in prose if letter.isalpha()
    ]
    return sum(letters) / len(letters) if letters else None


@lru_cache(maxsize=64)
def _script(name: str) -> str:
    """A writing system as Unicode's names of letters begin. Raises ValueError if no letter has it."""
    start = name.upper()
    if not any(
        unicodedata.name(chr(code), "").startswith(f"{start} ") for code in range(1 << 17)
    ):
        raise ValueError(
            f"there is no writing system {name!r}; Unicode has latin, greek, cjk, ..."
        )
    return start


def _wrong_format(reason: str) -> Verdict:
    return Verdict(value=0.0, status="wrong-format", reason=reason)


def _last_block(text: str, name: str) -> str | None:
    before, closed, _ = text.rpartition(f"</{name}>")
    _, opened, content = before.rpartition(f"<{name}>")
    return content if closed and opened else None


def _all(answer: Any) -> Sequence[Any]:
    """The reference answers of a task: lists and arrays hold several."""
    answer = answer.tolist() if hasattr(answer, "tolist") else answer
    return answer if isinstance(answer, list | tuple) else [answer]


def _text(answer: Any) -> str:
    return "" if answer is None or answer != answer else str(answer).strip()


def _plain(text: str) -> str:
    """The words of a text and the signs that change what they say."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    for pattern, replacement in _PUNCTUATION:
        text = pattern.sub(replacement, text)
    letters = [letter if _is_read(letter) else " " for letter in text]
    words = "".join(letters).translate(_KEPT).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def _is_read(letter: str) -> bool:
    """Whether a character is no punctuation; symbols of SQuAD's list are punctuation, too."""
    return letter not in "$^_`|~" and not unicodedata.category(letter).startswith("P")
