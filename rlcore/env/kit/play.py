"""One episode in a pool of workers, turn by turn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rlcore.env.base import Observation, messages_of
from rlcore.env.kit.policies import Policy
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.errors import EnvError
from rlcore.types import Message, Task

SLACK = 4
"""A turn may take so many deadlines: where a worker was lost, it is started again and the episode replayed."""
SLACK_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What was said, and what was answered."""

    said: Message | None
    """None for the beginning."""
    answer: Observation | Failed
    seconds: float

    @property
    def goes_on(self) -> bool:
        return isinstance(self.answer, Observation) and not self.answer.done


def converse(
    pool: EnvironmentPool,
    key: str,
    task: Task,
    policy: Policy,
    *,
    max_turns: int,
    seed: int = 0,
    deadline_s: float = 30.0,
) -> Iterator[Turn]:
    """Begin an episode and yield its turns, until it is over or has `max_turns` completions; then it is cut."""
    messages: list[Message] = messages_of(task.prompt) if task.prompt else []
    turn = ask(pool, key, None, task=task, seed=seed, deadline_s=deadline_s)
    yield turn
    for _ in range(max_turns):
        if not isinstance(turn.answer, Observation) or turn.answer.done:
            return
        reply = messages_of(turn.answer.reply)
        messages = reply if turn.answer.restart else [*messages, *reply]
        said = policy(messages)
        messages = [*messages, said]
        turn = ask(pool, key, said, deadline_s=deadline_s)
        yield turn
    pool.forget(key)


def ask(
    pool: EnvironmentPool,
    key: str,
    message: Message | None,
    *,
    deadline_s: float,
    task: Task | None = None,
    seed: int = 0,
) -> Turn:
    """One turn; the beginning where `message` is None. Raises `EnvError` if the pool itself is stuck."""
    started = time.perf_counter()
    if message is None:
        assert task is not None
        pool.reset(key, task, seed)
    else:
        pool.step(key, message)
    answer = wait_for(pool, [key], deadline_s)[key]
    return Turn(said=message, answer=answer, seconds=time.perf_counter() - started)


def wait_for(
    pool: EnvironmentPool, keys: list[str], deadline_s: float
) -> dict[str, Observation | Failed]:
    """What these episodes are answered; answers of others are dropped."""
    end = time.monotonic() + SLACK * deadline_s + SLACK_S
    answers: dict[str, Observation | Failed] = {}
    while len(answers) < len(keys):
        if time.monotonic() > end:
            raise EnvError(
                "the workers of the environment did not answer: this is a fault of rlcore"
            )
        answers.update({key: answer for key, answer in pool.poll(1.0) if key in keys})
    return answers
