"""Scripted policies: how demonstrations are made, and the bounds that a trained model is compared with.

A policy sees what a model sees, the task's prompt and the messages since, and writes the next completion:

    def highest(task, messages, rng):
        return str(task.columns["high"])

    play(NumberGuessing(), task, highest, random.Random(0)).reward
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rlcore.env.base import checked, checked_first, messages_of
from rlcore.env.forms import task_arguments
from rlcore.types import Message, Task

Policy = Callable[[Task, Sequence[Message], random.Random], str]
"""(task, messages after the prompt, random numbers) -> the next completion."""


@dataclass(frozen=True)
class Played:
    """One episode."""

    messages: list[Message]
    """Completions and the replies between them; the first and the last are completions."""
    reward: float
    """Sum over turns."""
    done: bool
    """False for an episode that was cut after `max_turns` completions."""
    states: list[str | None]
    """What each completion started from."""

    @property
    def turns(self) -> int:
        return len(self.states)


def play(
    environment: Any,
    task: Task,
    policy: Policy,
    rng: random.Random,
    *,
    seed: int = 0,
    max_turns: int = 100,
) -> Played:
    """One episode in this process, with an environment that is not async.

    seed: what the environment is given.
    """
    offered = {**task.columns, "prompt": task.prompt, "answer": task.answer, "seed": seed}
    reset = environment.reset
    name = type(environment).__name__
    observation = checked_first(reset(**task_arguments(reset, offered)), name)
    messages = messages_of(observation.reply)
    reward = 0.0
    states: list[str | None] = []
    while not observation.done and len(states) < max_turns:
        states.append(observation.state)
        message = {"role": "assistant", "content": policy(task, messages, rng)}
        messages.append(message)
        observation = checked(environment.step(message), name)
        reward += observation.reward
        if not observation.done and len(states) < max_turns:
            messages += messages_of(observation.reply)
    return Played(messages, reward, observation.done, states)


def demonstrated(environment: Any, task: Task, teacher: Policy, rng: random.Random) -> Task:
    """The task with an episode of the teacher as its demonstration, whether it ends well or not."""
    played = play(environment, task, teacher, rng)
    return replace(task, demonstration=played.messages)


def mean_rewards(
    make: Callable[[], Any],
    tasks: Sequence[Task],
    policies: Mapping[str, Policy],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """Mean reward of each policy over the tasks, each played once. make: gives a fresh environment."""
    means = {}
    for name, policy in policies.items():
        rng = random.Random(f"{seed}/{name}")
        means[name] = statistics.fmean(play(make(), task, policy, rng).reward for task in tasks)
    return means
