"""Environment pools without processes, for tests of what happens around them."""

from __future__ import annotations

from collections.abc import Sequence

from rlcore.env.base import Observation
from rlcore.env.pool import Failed
from rlcore.types import Message, Rollout, Task, Verdict


class FakePool:
    """`answer` says what the environment replies to completion `number` of an episode."""

    tools: list[dict] = []

    def __init__(self, **settings: object) -> None:
        self.settings = settings
        self._answers: list[tuple[str, Observation | Failed]] = []
        self._steps: dict[str, int] = {}

    def first(self, key: str, task: Task) -> Observation | Failed:
        return Observation()

    def answer(self, key: str, number: int, message: Message) -> Observation | Failed:
        raise NotImplementedError

    def reset(self, key: str, task: Task, seed: int, said: Sequence[Message] = ()) -> None:
        self._steps[key] = len(said)
        last = self.first(key, task)
        for number, message in enumerate(said):
            last = self.answer(key, number, message)
        self._answers.append((key, last))

    def step(self, key: str, message: Message) -> None:
        number = self._steps[key]
        self._steps[key] += 1
        self._answers.append((key, self.answer(key, number, message)))

    def forget(self, key: str) -> None:
        self._steps.pop(key, None)

    def poll(self, timeout_s: float) -> list[tuple[str, Observation | Failed]]:
        answers, self._answers = self._answers, []
        return answers


class EnvironmentScorer:
    """Scores by what the environment gave, at once."""

    def __init__(self) -> None:
        self._done: list[tuple[str, list[Verdict]]] = []

    def submit(self, key: str, task: Task, rollouts: Sequence[Rollout]) -> None:
        values = [sum(rollout.episode.rewards) for rollout in rollouts if rollout.episode]
        self._done.append((key, [Verdict(value=value) for value in values]))

    def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
        done, self._done = self._done, []
        return done

    def check_progress(self) -> None:
        """Nothing can get stuck."""
