"""What a completion votes for in maj@k: its final answer, found by the rules of `rewards.math`, in one spelling."""

from __future__ import annotations

import re

from rewards.math_final import UNREAD, Mode, final_answer
from rewards.math_spelling import plain_number, tidy
from rewards.thoughts import after_thoughts

_NAME = re.compile(r"[A-Za-z]\w{0,3}\s*=\s*(?=[^=])")
"""Of a value, which may be left out: `AM = 5`."""


def final_answer_of(
    completion: str, *, finished: bool = True, mode: Mode = "first", within: str | None = None
) -> str | None:
    """The final answer that the reward `math` reads with the same parameters; None where there is none.

    Plain numbers vote by value, so `1,234`, `1234.0` and `2468/2` are one answer; everything else votes by
    its spelling without styles, spaces and case. Expressions that are only equal by algebra are two answers.
    """
    text = after_thoughts(completion)
    if within:
        before, closed, _ = text.rpartition(f"</{within}>")
        _, opened, text = before.rpartition(f"<{within}>")
        if not (closed and opened):
            return None
        finished = True
    answer = final_answer(text, mode=mode, ended=finished)
    if answer in ("", UNREAD):
        return None
    answer = _NAME.sub("", answer.strip(), count=1) if _NAME.match(answer.strip()) else answer
    number = plain_number(answer)
    if number is not None:
        return str(number)
    return "".join(tidy(answer).split()).lower()
