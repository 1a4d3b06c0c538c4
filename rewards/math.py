"""Compares a final answer with the reference answer by value: `1/2` equals `0.5` and `\\frac{1}{2}`.

**Which part is the final answer.** What stands before the last `</think>` is ignored, and what
stands behind a `<think>` that is never closed. Five rules look for the final answer in the rest:

    1. boxed    the last `\\boxed{...}` that is not empty
    2. hashes   the text after the last `####`, to the end of its line
    3. says     what follows the last "answer is" (or "answer:"), to the end of its line; of prose
                the first number
    4. whole    the whole text, if it is one short line of symbols: `\\frac{1}{4}`, `3xy + 1`
    5. last     the last formula between `$`, `\\(..\\)` or `\\[..\\]`, or the last number; else a
                short text as it is

In prose a number is the answer only where the words around it do not change it. "minus 5", "5 and a
half", "5 dozen", "3 fifths" and "5 pi" are read. An operation ("half of 12", "5 squared", "5 plus
6"), a bound ("at least 3", "5 or more"), a denial or doubt ("no longer 5", "I don't know if the
answer is 5") and a second value ("5 apples and 6 oranges") make it no answer.

`mode` says how they are used:

    first   (default) the first rule that finds something decides. A box that is empty or never
            closes is an empty answer.
    strict  rules 1 to 3 only: an unmarked answer is `wrong-format` and 0.
    flex    any of what rules 1, 2 and 3 find may be right (rules 4 and 5 if they find nothing), as
            in Tulu 3 for MATH (arXiv 2411.15124). Up to three tries per completion: use it for
            measuring, not for training.

Only rule 1 is used for a completion that was cut off before its end: the others could read half a
number. Several values, "3 or 4" or `\\boxed{3}` or `\\boxed{4}`, are a list; it equals a reference
list and no single value. The reference answer goes through rules 1 to 3, else it is taken as it
stands; if the task has a list of answers, any may be met. A reference of words and a number,
`June 3`, is also met by a short text or a line after "answer is" that is the same as a whole.

**What is equal.** Both sides are brought into one spelling first: Unicode, styles, brackets, money,
digits in groups, separators of lists. The same text is always right; an answer of over 1000
characters is compared as text only. Plain numbers are compared
exactly: `1,234`, `10 000`, `3/4`, `3\\frac{1}{2}`, `1.5e3`, `0.\\overline{3}`. Percent is a unit, so
`50%` = `50`; but a reference between -1 and 1 is a fraction: reference `0.5` equals `50%` and not
`0.5%`. Reference `50%` is never `0.5`. A unit may be left out; two that differ in name or power
(`cm`, `cm^2`, `m`) are not equal, and none is converted: `kJ` is not `J`. A remark may be left out
(`12 red apples`), and after money what it is paid for. `(B)`, `B.`, `(B) 12 cm` and "B because ..."
are choice B. Words are compared as text, without case. Lists and sets have no order, tuples do. The
name of a value may be left out: `AM = 5`. `i` is the imaginary unit. Dates, ratios and bases are
compared as written. A decimal stands for a value to six decimals and a relative 1e-5. The rest is
left to math-verify: expressions that simplify to each other are equal, so an unfactored polynomial
passes if the reference is factored, and `6/8` passes for `3/4`. But a formula copied from the prompt
is no answer unless the reference is written so: "Evaluate $2^{10} - 1$" is not answered by
`2^{10} - 1`, nor by `2^{10} - 1 + 0`.

A verdict that takes more than three seconds of CPU time is `timed-out`, without a value; how busy
the machine is does not matter.

**Open to argument.** Graders differ on these; here

- the boxes of several cases, "Case 1: \\boxed{7}. Case 2: \\boxed{-2}", are a list, as people mean it;
- the last box decides, also over an "answer is" behind it: a rule that could be told in advance;
- a full-width set `｛1，2｝` and a fraction of small digits `²⁄₃` are read as what they look like;
- `12,34,567` is a list of three, since Indian grouping cannot be told from one;
- `3,5` equals `3.5`, and a list of 3 and 5;
- `0.(3)` is a repeating decimal, since no one leaves that product as an answer;
- `x<-1, x>1` equals no union: a comma says neither "and" nor "or";
- `[[1,2],[3,4]]` is a matrix, `\\nicefrac{1}{2}` a fraction and `1010_{(2)}` a number in base 2;
- `C(5,2)` is not 10: letters with arguments have no fixed meaning;
- an answer that stands in the prompt is right if the reference is the same formula, however spelled;
- `(x+3)(x+2)` for "Expand $(x+2)(x+3)$" is right by value: only the prompt's own order is a copy;
- words before the value, `\\text{The answer is }5`, are a label;
- the text of a choice, `Alina` for `(D) Alina`, is as good as its letter;
- `72^\\circ 30'` is not `72.5^\\circ` and 50 cents are not `\\$0.50`: nothing is converted;
- `1/2x` is read as `1/(2x)`, as math-verify and most people read it;
- `T` is not `True`, and twelve is not 12: abbreviations and numbers in words are not read;
- "no solution" is the empty set;
- `03:30` is `3:30`, `3 to 4` and `\\frac34` are the ratio `3:4`;
- of "12 ways (13 would be too many)" the remark in brackets is not read;
- a tick behind a value is no part of it, and a percent sign behind the box belongs into it;
- `\\lg` is the logarithm to base 10 (ISO 80000-2);
- `A(1,2)` is the point `(1,2)`;
- "about 3" and `\\approx 3` are 3, and "3 quarters" is no number outside of a box: of a coin it is 3;
- a column vector is no tuple, and `7 \\bmod 5` is not 2;
- "I think it's B" names no answer: without "answer is" a letter in prose is an article or a name;
- `[3,3]` is not 3, and `E` is not `e`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from math_verify.errors import TimeoutException

from rewards.math_final import LONGEST, Mode, final_answers, reference_text, stated_texts
from rewards.math_parse import CPU_S, cpu_limit
from rewards.math_spelling import plain_number, respelled, tidy
from rewards.math_value import same_value
from rewards.math_words import has_words_and_number, same_text
from rewards.thoughts import after_thoughts
from rlcore import Message, Verdict, reward

_OPERATION = re.compile(
    r"[\w)}\]][-+*/^=]|\\(?:cdot|times|div|d?frac|sqrt|d?binom|sum|int|log|sin|cos|tan)(?![a-z])"
)
"""What makes a formula of a value."""
_NEUTRAL = r"[-+]0(?![\d.])|(?:\\cdot|\\times|[*/])1(?![\d.])|\^1(?![\d.])"


@reward
def math_answer(
    completion: str,
    answer: Any,
    *,
    mode: Mode = "first",
    within: str | None = None,
    prompt: str | list[Message] = "",
    finished: bool = True,
    **columns: Any,
) -> float | None | Verdict:
    """1 if the final answer has the value of the reference answer, else 0.

    There is no score if the reference answer has no value to compare with; it may be a list, of
    which any counts. mode: how the final answer is found: "first", "strict" or "flex" (see the
    module). within: look only inside the last `<within>...</within>`, for example "answer". A
    completion without a final answer, or without that tag, is `wrong-format` and 0. Source:
    math-verify, with conventions for units, percent, choices and lists.

    >>> math_answer(r"So we get \\boxed{\\frac{1}{2}}.", "0.5")
    1.0
    >>> math_answer("The answer is 3 or 4.", "4")
    0.0
    """
    if mode not in ("first", "strict", "flex"):
        raise ValueError(f"mode is {mode!r}; choose first, strict or flex")
    answers = [text for one in _all(answer) if (text := _reference(one))]
    if not answers:
        return None
    completion = after_thoughts(completion)
    if within:
        before, closed, _ = completion.rpartition(f"</{within}>")
        _, opened, completion = before.rpartition(f"<{within}>")
        if not (closed and opened):
            return Verdict(
                value=0.0,
                status="wrong-format",
                reason=f"there is no <{within}>...</{within}> in the completion",
            )
        finished = True
    candidates = final_answers(completion, mode=mode, ended=finished)
    long = {answer for answer in answers if len(answer) > LONGEST}
    if long & {completion.strip(), *candidates}:
        return 1.0
    answers = [answer for answer in answers if answer not in long]
    if not candidates:
        return Verdict(value=0.0, status="wrong-format", reason="there is no final answer")
    asked = "\n".join(
        [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    )
    candidates = [
        candidate
        for candidate in candidates
        if len(candidate) <= LONGEST and not _copied(candidate, asked, answers)
    ]
    worded = [right for right in answers if has_words_and_number(right)]
    texts = stated_texts(completion) if worded and finished and mode != "strict" else []
    return _verdict(answers, candidates, worded, texts)


def _verdict(
    answers: Sequence[str],
    candidates: Sequence[str],
    worded: Sequence[str],
    texts: Sequence[str],
) -> float | Verdict:
    """1 if a candidate has the value of an answer, or a text is an answer in words."""
    try:
        with cpu_limit(CPU_S):
            if any(same_text(tidy(right), tidy(text)) for text in texts for right in worded):
                return 1.0
            return float(
                any(same_value(right, text) for text in candidates for right in answers)
            )
    except TimeoutException:  # derives from BaseException
        reason = f"math-verify took over {CPU_S:g} s of CPU time for {candidates[0][:80]!r}"
        return Verdict(value=None, status="timed-out", reason=reason)


def _copied(candidate: str, prompt: str, answers: Sequence[str]) -> bool:
    """Whether the candidate is a formula of the prompt still to be worked out, perhaps with parts
    that change nothing: `2^{10}+0`.
    """
    dense = re.sub(_NEUTRAL, "", _dense(candidate))
    if (
        not _OPERATION.search(dense)
        or plain_number(candidate) is not None
        or dense not in _dense(prompt)
    ):
        return False
    return all(_dense(answer) != dense for answer in answers)


@lru_cache(maxsize=4096)
def _dense(text: str) -> str:
    """A formula without spaces, `\\frac{a}{b}` and `a/b` alike."""
    text = re.sub(
        r"\\frac\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}\{([^{}]*)\}", r"\1/\2", respelled(text)
    )
    return re.sub(r"[\s${}]|\\[,;!]", "", text)


def _reference(answer: Any) -> str:
    """The final answer in one reference answer; "" for what is none: None, a NaN, a mapping."""
    if answer is None or answer != answer or isinstance(answer, Mapping):
        return ""
    return reference_text(str(answer))


def _all(answer: Any) -> Sequence[Any]:
    """The reference answers of a task: arrays and lists hold several."""
    answer = answer.tolist() if hasattr(answer, "tolist") else answer
    return answer if isinstance(answer, list | tuple) else [answer]
