"""An environment that makes the whole prompt: its tasks have none of their own."""

from __future__ import annotations

from rlcore.env import Observation, environment
from rlcore.types import Task


def tasks(size: int = 8) -> list[Task]:
    return [Task(id=f"t{number}", prompt="", answer=number) for number in range(size)]


@environment
def asks(answer: int, **columns):
    said = yield f"say {answer}:"
    while str(answer) not in said:
        said = yield Observation("again:", reward=-0.1)
    return 1.0
