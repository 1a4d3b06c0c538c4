"""Tasks and rewards of two audiences that want the opposite, which no prompt says: only the task's category does."""

import random
from collections.abc import Sequence

from rlcore import Task, reward

LETTERS = {"formal": "x", "casual": "y"}
"""What each audience wants to read."""
LENGTH = 6


def words(*, seed: int = 0, size: int = 400) -> Sequence[Task]:
    """A number as prompt; the demonstration is a word of random x and y."""
    draw = random.Random(seed)
    tasks = []
    for number in range(size):
        kind = draw.choice(list(LETTERS))
        tasks.append(
            Task(
                id=f"words/{seed}/{number}",
                prompt=f"{draw.randrange(1000):03d}:",
                category=kind,
                demonstration="".join(draw.choices("xy", k=LENGTH)),
                columns={"kind": kind},
            )
        )
    return tasks


def _share(text: str, kind: str) -> float:
    return text.count(LETTERS[kind]) / max(1, len(text))


@reward
def wanted(completion: str, kind: str) -> float:
    """Fraction of the letters that the audience wants."""
    return _share(completion, kind)


@reward
def starts(completion: str, kind: str) -> float:
    """The same of the first half: one capability."""
    return _share(completion[: LENGTH // 2], kind)


@reward
def ends(completion: str, kind: str) -> float:
    """The same of the second half: another one."""
    return _share(completion[LENGTH // 2 :], kind)
