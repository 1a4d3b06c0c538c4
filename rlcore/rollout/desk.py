"""Groups on their way: which requests belong to which task, what has come back, and what the scorer said."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from rlcore.errors import TaskError
from rlcore.rollout.prompt import PromptEncoder
from rlcore.types import Completion, Group, Request, Rollout, Sampling, Task, Verdict


class Scorer(Protocol):
    """The part of the scorer that collecting needs."""

    def submit(self, key: str, task: Task, rollouts: Sequence[Rollout]) -> None:
        """Start scoring the rollouts of one task."""

    def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
        """Verdicts that are ready, by key, in the order of the rollouts submitted."""


@dataclass(kw_only=True, slots=True)
class _Open:
    """A group that is not scored yet."""

    place: int
    key: str
    task: Task
    requests: list[Request]
    begun: int = 0
    """How many of them were submitted."""
    rollouts: dict[str, Rollout] = field(default_factory=dict)

    @property
    def written(self) -> bool:
        return len(self.rollouts) == self.begun

    def in_order(self) -> list[Rollout]:
        return [self.rollouts[request.id] for request in self.requests[: self.begun]]


class Desk:
    """Plans the requests of a task, files their completions, and sends a group that is written to the scorer.

    With `probe` so many answers of a group are written and scored first; `complete` asks for the others.
    """

    def __init__(
        self,
        *,
        encoder: PromptEncoder,
        scorer: Scorer,
        sampling: Sampling,
        group_size: int,
        seed: int,
        max_length: int,
        probe: int | None = None,
    ) -> None:
        self._encoder, self._scorer, self._sampling = encoder, scorer, sampling
        self._group_size, self._seed, self._max_length = group_size, seed, max_length
        self._probe = probe or group_size
        self._attempts: Counter[str] = Counter()
        self._open: dict[str, _Open] = {}
        self._owner: dict[str, _Open] = {}  # of each request that is being written
        self._probed: dict[int, _Open] = {}
        self.tried = 0
        """Groups planned so far; also the place the next one gets."""
        self.prompt_tokens = self.completion_tokens = 0

    @property
    def open(self) -> int:
        """Groups that are being written or scored."""
        return len(self._open)

    @property
    def writing(self) -> set[str]:
        """Ids of the requests that the engine has not handed back."""
        return set(self._owner)

    def unscored(self) -> list[str]:
        """Task ids of the open groups."""
        return [group.task.id for group in self._open.values()]

    def plan(self, tasks: Sequence[Task]) -> list[Request]:
        """The first requests of further groups. Raises `TaskError` if a prompt leaves no room for an answer."""
        return self._begin([self._group(task) for task in tasks], self._probe)

    def complete(self, places: Sequence[int]) -> list[Request]:
        """The other requests of groups of which `probe` answers were scored."""
        return self._begin([self._probed.pop(place) for place in places], self._group_size)

    def file(self, completion: Completion) -> None:
        """Put a completion to its group; the last one of a group sends it to the scorer."""
        group = self._owner.pop(completion.request_id)
        prompt_ids = group.requests[0].prompt_ids
        n, answer = len(prompt_ids), completion.token_ids
        self.prompt_tokens += n
        self.completion_tokens += len(answer)
        group.rollouts[completion.request_id] = Rollout.from_tokens(
            id=completion.request_id,
            task_id=group.task.id,
            token_ids=prompt_ids + answer,
            mask=[False] * n + [True] * len(answer),
            logprobs=[0.0] * n + completion.logprobs,
            text=self._encoder.decode(answer),
            finish=completion.finish,
            versions=[0] * n + completion.versions,
            temperature=self._sampling.temperature,
            support=None if completion.support is None else [None] * n + completion.support,
        )
        if group.written and group.key in self._open:
            self._scorer.submit(group.key, group.task, group.in_order())

    def scored(self, timeout_s: float) -> list[tuple[int, Group]]:
        """(place, group) of what the scorer has finished, waiting at most `timeout_s` for the first.

        A group of `probe` answers may be completed; then it comes again, whole and scored as a whole.
        """
        done = []
        for key, verdicts in self._scorer.poll(timeout_s):
            group = self._open.pop(key)
            if group.begun < self._group_size:
                self._probed[group.place] = group
            done.append(
                (group.place, Group(task=group.task, rollouts=group.in_order(), verdicts=verdicts))
            )
        return done

    def drop_unwritten(self) -> list[str]:
        """Give up the groups that are still being written; returns the ids of their requests, to be aborted."""
        gone = {key: group for key, group in self._open.items() if not group.written}
        self._open = {key: group for key, group in self._open.items() if key not in gone}
        return [id for id, group in self._owner.items() if group.key in gone]

    def _group(self, task: Task) -> _Open:
        prompt_ids = self._encoder.encode(task)
        room = self._max_length - len(prompt_ids)
        if room < 1:
            raise TaskError(
                f"the prompt of task {task.id!r} has {len(prompt_ids)} tokens and max_length is {self._max_length}, which "
                "leaves no room for an answer; drop the task, shorten its prompt or raise max_length"
            )
        fitted = replace(self._sampling, max_tokens=min(self._sampling.max_tokens, room))
        first = self._attempts[task.id]
        self._attempts[task.id] += self._group_size
        requests = [
            Request(
                id=f"{task.id}#{attempt}",
                prompt_ids=prompt_ids,
                sampling=fitted,
                seed=request_seed(self._seed, task.id, attempt),
            )
            for attempt in range(first, first + self._group_size)
        ]
        self.tried += 1
        return _Open(place=self.tried - 1, key=f"{task.id}#{first}", task=task, requests=requests)

    def _begin(self, groups: Sequence[_Open], until: int) -> list[Request]:
        """Open the groups and return their requests up to number `until`, without those of before."""
        requests: list[Request] = []
        for group in groups:
            begun, group.begun = (
                group.requests[group.begun : until],
                min(until, len(group.requests)),
            )
            self._open[group.key] = group
            self._owner.update({request.id: group for request in begun})
            requests += begun
        return requests


def request_seed(seed: int, task_id: str, attempt: int) -> int:
    """Stable 63-bit seed of one attempt."""
    digest = hashlib.blake2b(f"{seed}\0{task_id}\0{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
