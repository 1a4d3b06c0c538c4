"""Made-up worlds for task samplers: categories with given pass rates, and the outcomes a policy would have there."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rlcore.curriculum.task_sampler import TaskSampler
from rlcore.types import Outcome, Task

GROUP = 8


def category_tasks(sizes: Mapping[str, int]) -> list[Task]:
    """Tasks in the order of the categories, with the columns `level` (number of the category) and `half`."""
    return [
        Task(
            id=f"{category}/{i}",
            prompt="?",
            category=category,
            columns={"level": level, "half": "ab"[i % 2]},
        )
        for level, (category, size) in enumerate(sizes.items())
        for i in range(size)
    ]


def played(index: int, category: str, p: float, rng: random.Random) -> Outcome:
    """A group of answers that pass with probability p, with GRPO's advantages (standard deviation over n - 1)."""
    rewards = tuple(float(rng.random() < p) for _ in range(GROUP))
    mean = sum(rewards) / GROUP
    std = (sum((r - mean) ** 2 for r in rewards) / (GROUP - 1)) ** 0.5
    return Outcome(
        index=index,
        category=category,
        rewards=rewards,
        abs_advantage=sum(abs(r - mean) / std for r in rewards) / GROUP if std else 0.0,
    )


def play(
    sampler: TaskSampler,
    tasks: Sequence[Task],
    rate: Callable[[Task, int], float],
    *,
    steps: int,
    batch: int,
    seed: int = 0,
) -> list[Counter]:
    """Draw, answer, observe; returns how often each category was drawn in each step."""
    rng, counts = random.Random(seed), []
    for step in range(steps):
        positions = sampler.draw(batch)
        sampler.observe(
            [played(i, tasks[i].category, rate(tasks[i], step), rng) for i in sorted(positions)]
        )
        counts.append(Counter(tasks[i].category for i in positions))
    return counts
