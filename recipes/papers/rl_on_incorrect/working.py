"""A verifier of a worked sum that wants one step marked: a decision nobody showed the model, at a place one can choose."""

from __future__ import annotations

import re
from typing import Any

from rlcore import reward

STEP = re.compile(r"([a-z]):((\d+)\+\d+=\d+)")


@reward
def marked(answer: str, gold: str, *, step: int = -1, marks: str = "abcdefghij", finished: bool = True, **columns: Any) -> float:
    """1 if the sum is right and step number `step` begins with the letter of the last digit of its first number, else 0.

    Steps are numbered from 0, or from the end by negative numbers. The letters of all other steps are free.

    >>> [marked(text, "26") for text in ("k:7+15=22;c:22+4=26", "h:7+15=22;k:22+4=26", "k:7+15=22;c:22+5=27")]
    [1.0, 0.0, 0.0]
    >>> marked("h:7+15=22;k:22+4=26", "26", step=0)
    1.0
    """
    steps = [STEP.fullmatch(part) for part in answer.split(";")]
    if not finished or None in steps or not answer.endswith(f"={gold}"):
        return 0.0
    letter, _, number = steps[step].groups()
    return float(letter == marks[int(number) % len(marks)])
