"""One-step word problems of SVAMP (arXiv 2103.07191), with a short solution made from each problem's equation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from rlcore.errors import TaskError
from rlcore.recipe.build import here
from rlcore.tasks.lazy import LazyTasks
from rlcore.tasks.table import open_table
from rlcore.types import Task

Split = Literal["train", "heldout"]
HELD_OUT = 4
"""One problem in so many is held out, by a hash of its text."""
_STEP = re.compile(r"\(\s*([\d.]+)\s*([-+*/])\s*([\d.]+)\s*\)")


def words(
    path: str | list[str], *, split: Split, limit: int | None = None, seed: int = 0
) -> Sequence[Task]:
    """Problems with the columns Body, Question, Equation, Answer. The category is the operation.

    path: a file, or several of which the first that exists is read. limit: so many problems, drawn by `seed`. Problems
    whose equation has more than one step are left out. Raises `TaskError`.
    """
    place = here(path)
    if not Path(place).exists():
        raise TaskError(
            f"there are no word problems at {place}: put SVAMP there, JSON lines with the columns Body, Question, "
            "Equation and Answer, or name another file in tasks.<name>.path"
        )
    table = open_table(place, split="train", subset=None)
    rows = [row for row in table if _STEP.fullmatch(row["Equation"].strip())]
    rows = [row for row in rows if is_held_out(row) == (split == "heldout")]
    rows.sort(key=lambda row: _digest(f"{seed}/{row['ID']}"))
    rows = rows[:limit]
    return LazyTasks(len(rows), lambda position: _task(rows[position]))


def is_held_out(row: dict) -> bool:
    return int.from_bytes(_digest(_text(row)), "big") % HELD_OUT == 0


def solution(equation: str) -> str:
    """`( 76.0 - 25.0 )` as "76 - 25 = 51. The answer is 51." """
    match = _STEP.fullmatch(equation.strip())
    assert match is not None
    first, sign, second = float(match[1]), match[2], float(match[3])
    value = {"+": first + second, "-": first - second, "*": first * second, "/": first / second}
    result = f"{value[sign]:.6g}"
    return f"{first:g} {sign} {second:g} = {result}. The answer is {result}."


def _task(row: dict) -> Task:
    return Task(
        id=row["ID"],
        prompt=_text(row),
        answer=f"{float(row['Answer']):.6g}",
        category=row["Type"],
        demonstration=solution(row["Equation"]),
    )


def _text(row: dict) -> str:
    body = row["Body"].strip()
    return f"{body}{'' if body.endswith(('.', '?', ',')) else '.'} {row['Question'].strip()}"


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()
