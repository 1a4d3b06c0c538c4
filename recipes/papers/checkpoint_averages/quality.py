"""Worked sums of known quality: the column `quality` rises from 0 to 1, and with it the chance that the steps are right."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlcore.tasks.arithmetic import arithmetic
from rlcore.tasks.lazy import LazyTasks
from rlcore.types import Task


def sums(*, size: int, seed: int = 0, mistakes: float = 0.6) -> Sequence[Task]:
    """Sums of three numbers, in rising quality.

    mistakes: chance that the demonstration of the worst one forgets a carry; it falls in a line to 0.
    """
    right = arithmetic(split="train", size=size, seed=seed)
    wrong = arithmetic(split="train", size=size, seed=seed, mistakes=1.0)

    def quality(i: int) -> float:
        return i / max(1, size - 1)

    def make(i: int) -> Task:
        mistaken = random.Random(f"{seed}/mistaken/{i}").random() < mistakes * (1 - quality(i))
        task = wrong[i] if mistaken else right[i]
        return replace(task, columns={**task.columns, "quality": quality(i)})

    def column(name: str) -> list[Any] | None:
        return [quality(i) for i in range(size)] if name == "quality" else None

    return LazyTasks(size, make, column=column)
