"""A verifier of a worked sum that wants one step marked: a decision nobody showed the model, at a place one can choose."""

from __future__ import annotations

import re
from typing import Any

from rlcore import reward

STEP = re.compile(r"([a-z]):\d+\+\d+=\d+")


@reward
def marked(
    completion: str,
    answer: str,
    *,
    step: int = -1,
    mark: str = "z",
    finished: bool = True,
    **columns: Any,
) -> float:
    """1 if the sum is right and its step number `step` begins with the letter `mark`, else 0.

    Steps are numbered from 0, or from the end by negative numbers. The letters of all other steps are free.

    >>> [marked(text, "26") for text in ("k:7+15=22;z:22+4=26", "z:7+15=22;k:22+4=26", "k:7+15=22;z:22+5=27")]
    [1.0, 0.0, 0.0]
    >>> marked("z:7+15=22;k:22+4=26", "26", step=0)
    1.0
    """
    steps = [STEP.fullmatch(part) for part in completion.split(";")]
    right = finished and None not in steps and completion.endswith(f"={answer}")
    return float(right and steps[step][1] == mark)
