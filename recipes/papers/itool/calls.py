"""Requests to be answered by a call of one of the tools that the prompt lists, or by "none".

    ka(p,q) mi(r)|mi 7>         mi(r=7)
    ka(p,q) mi(r)|ka 3 5>       ka(p=3, q=5)
    ka(p,q) mi(r)|zo 4>         none
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from rlcore.errors import TaskError
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task

Split = Literal["train", "heldout"]
CALL, NO_CALL = "call", "no call"
MOST_PARAMETERS = 4


def requests(
    *, size: int, split: Split, seed: int = 0, tools: int = 3, without: float = 0.2
) -> Sequence[Task]:
    """`size` requests, of category "call" or "no call", with the right reply as answer and demonstration.

    tools: the most tools in a prompt. without: share of requests for a tool that is not listed. Columns: `level`,
    the number of arguments, 0 without a call, and `ease`, from 1 for level 0 to 0 for the most arguments. One request
    in eight is held out by a hash of its text.
    """
    if not 1 <= tools <= 5:
        raise TaskError(f"tools is {tools}: a prompt lists 1 to 5 tools")
    if not 0 <= without < 1:
        raise TaskError(f"without is {without:g}: it is a share of the requests, at least 0 and below 1")

    def make(position: int) -> Task:
        rng = random.Random(f"{seed}/{split}/{position}")
        prompt, answer, level = _request(rng, tools, without)
        while is_held_out(prompt) != (split == "heldout"):
            prompt, answer, level = _request(rng, tools, without)
        return Task(
            id=f"{split}/{seed}/{position}",
            prompt=prompt,
            answer=answer,
            category=CALL if level else NO_CALL,
            demonstration=answer,
            columns={"level": level, "ease": 1 - level / MOST_PARAMETERS},
        )

    return LazyTasks(size, make)


def is_held_out(prompt: str) -> bool:
    return blake2b(prompt.encode(), digest_size=1).digest()[0] % 8 == 0


def _request(rng: random.Random, tools: int, without: float) -> tuple[str, str, int]:
    """Prompt, answer and number of arguments."""
    listed = rng.randint(1, tools)
    names = rng.sample(_NAMES, listed + 1)
    signatures = {
        name: rng.sample(string.ascii_lowercase, rng.randint(1, MOST_PARAMETERS))
        for name in names[:listed]
    }
    asked = names[-1] if rng.random() < without else rng.choice(names[:listed])
    parameters = signatures.get(asked, [])
    values = rng.choices(string.digits, k=len(parameters) or rng.randint(1, MOST_PARAMETERS))
    shown = " ".join(f"{name}({','.join(letters)})" for name, letters in signatures.items())
    prompt = f"{shown}|{asked} {' '.join(values)}>"
    if not parameters:
        return prompt, "none", 0
    arguments = ", ".join(map("=".join, zip(parameters, values, strict=True)))
    return prompt, f"{asked}({arguments})", len(parameters)


_NAMES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
