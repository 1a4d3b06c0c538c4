"""Whether the replies that stand in demonstrations are those that the environment gives."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.env.base import Observation, messages_of
from rlcore.env.pool import EnvironmentPool, Failed
from rlcore.types import Message, Task


def first_difference(pool: EnvironmentPool, task: Task, *, seed: int = 0) -> str | None:
    """Play a demonstration that is a list of messages; in words where a reply is another one, None where all are equal.

    seed: what the environment is given: replies that depend on it differ without a mistake.
    """
    messages = task.demonstration
    assert isinstance(messages, list)
    pool.reset(task.id, task, seed)
    heard = _next(pool)
    said = 0
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        said += 1
        wanted = _replies(messages[place + 1 :])
        if isinstance(heard, Failed):
            return f"the environment failed before completion {said}: {heard.reason}"
        if heard.done and said > 1:
            return f"the environment was done before completion {said}"
        pool.step(task.id, message)
        heard = _next(pool)
        if isinstance(heard, Failed):
            return f"the environment failed at completion {said}: {heard.reason}"
        got = [] if heard.done else [_text(reply) for reply in messages_of(heard.reply)]
        if wanted and got != wanted:
            ends = " (and was done)" if heard.done else ""
            return (
                f"after completion {said} it has {wanted}, and the environment said {got}{ends}"
            )
    pool.forget(task.id)
    return None


def _next(pool: EnvironmentPool) -> Observation | Failed:
    """What is said next; the pool itself bounds the wait."""
    while True:
        for _, answer in pool.poll(timeout_s=1.0):
            return answer


def _replies(after: Sequence[Message]) -> list[str]:
    """Texts of the messages up to the next completion."""
    texts = []
    for message in after:
        if message["role"] == "assistant":
            break
        texts.append(_text(message))
    return texts


def _text(message: Message) -> str:
    return str(message.get("content") or "")
