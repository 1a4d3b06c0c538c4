"""A group that is not finished: its attempts, the tokens they have so far, and the requests that continue them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from rlcore.types import (
    Completion,
    Finish,
    Group,
    Prefix,
    Request,
    Rollout,
    Sampling,
    Task,
    Turn,
)

TextOf = Callable[[list[int], list[int]], str]
"""(prompt ids, completion ids) -> the text that reward functions see."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskDraw:
    """A task that was drawn for a batch."""

    task: Task
    task_index: int | None = None
    """In the task set; None for follow-up tasks, which are made from completions."""
    order: int = 0
    """Place among all draws of the batch, over all ranks."""
    occurrence: int = 0
    """How often the same task was drawn before in this batch, over all ranks: keeps ids and seeds apart."""


@dataclass(kw_only=True, slots=True)
class Attempt:
    """One rollout being written. It may take several requests, called legs: each lies under one version of the weights.

    A leg continues prompt + tokens so far, so nothing is sampled twice and every token keeps its own version.
    """

    id: str
    seed: int
    prompt_ids: list[int]
    sampling: Sampling
    """`max_tokens` is fitted to the model's length."""
    given: int = 0
    """Completion tokens that were fixed before the first leg (a prefix to be continued); not counted as written."""
    token_ids: list[int] = field(default_factory=list)  # [L], of the completion so far
    logprobs: list[float] = field(default_factory=list)  # [L]
    versions: list[int] = field(default_factory=list)  # [L]
    support: list[list[int] | None] | None = None
    """[L] tokens that truncated sampling kept; None if nothing was truncated."""
    leg: int = 0
    finish: Finish | None = None

    @property
    def request_id(self) -> str:
        """Id of the present leg's request."""
        return f"{self.id}+{self.leg}" if self.leg else self.id

    def request(self) -> Request:
        """What asks the engine for the tokens that are still missing."""
        written = len(self.token_ids) - self.given
        return Request(
            id=self.request_id,
            prompt_ids=self.prompt_ids,
            prefix_ids=list(self.token_ids),
            sampling=replace(self.sampling, max_tokens=self.sampling.max_tokens - written),
            # A leg with the seed of the one before would draw that one's random numbers again.
            seed=request_seed(self.seed, self.id, self.leg) if self.leg else self.seed,
        )

    def add(self, completion: Completion) -> None:
        """Append the tokens of a leg; unless it was stopped from outside, the attempt is finished with it."""
        if completion.support is not None:
            before = self.support or [None] * len(self.token_ids)
            self.support = before + completion.support
        self.token_ids += completion.token_ids
        self.logprobs += completion.logprobs
        self.versions += completion.versions
        full = len(self.token_ids) - self.given >= self.sampling.max_tokens
        if completion.finish in ("stop", "length"):
            self.finish = completion.finish
        elif full:
            self.finish = "length"
        else:
            self.leg += 1

    def rollout(self, task_id: str, text_of: TextOf) -> Rollout:
        """The finished attempt, prefix included."""
        completion = Turn(
            role="completion",
            token_ids=self.token_ids,
            logprobs=self.logprobs,
            versions=self.versions,
            support=self.support,
            temperature=self.sampling.temperature,
            finish=self.finish,
        )
        return Rollout(
            id=self.id,
            task_id=task_id,
            turns=(Turn(role="prompt", token_ids=self.prompt_ids), completion),
            text=text_of(self.prompt_ids, self.token_ids),
        )


@dataclass(kw_only=True, slots=True)
class OpenGroup:
    """The attempts at one task, or the continuations of one prefix."""

    key: str
    batch: int
    draw: TaskDraw
    attempts: list[Attempt]
    started: int = 0
    """How many of the attempts were asked for: fewer than all while the others wait for a probe."""
    prefix: Prefix | None = None
    deadline: float | None = None
    """Monotonic time at which what is still being written is aborted; None until the first request is submitted."""
    expired: bool = False
    scoring: bool = False

    @property
    def task(self) -> Task:
        return self.draw.task

    @property
    def running(self) -> list[Attempt]:
        """Attempts that were asked for and have not finished."""
        return [attempt for attempt in self.attempts[: self.started] if attempt.finish is None]


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedGroup:
    """A group that is written and scored."""

    key: str
    batch: int
    draw: TaskDraw
    group: Group
    complete: bool
    """False for a probe: `Generator.complete` asks for the other completions."""
    prefix: Prefix | None = None
    """What was continued; the group then holds whole completions, prefix included."""


@dataclass(kw_only=True, slots=True)
class BatchCost:
    """What the groups of one batch have cost so far."""

    groups: int = 0
    """Started."""
    prompt_tokens: int = 0
    """Read; a prompt counts for each of its completions."""
    completion_tokens: int = 0
    """Written."""


def plan_group(
    draw: TaskDraw,
    prompt_ids: list[int],
    *,
    batch: int,
    size: int,
    sampling: Sampling,
    seed: int,
) -> OpenGroup:
    """The attempts at a task: ids are `<task id>#<batch>.<attempt>`, seeds follow from (seed, task, attempt)."""
    first = draw.occurrence * size
    attempts = [
        Attempt(
            id=f"{draw.task.id}#{batch}.{number}",
            seed=request_seed(seed, draw.task.id, number),
            prompt_ids=prompt_ids,
            sampling=sampling,
        )
        for number in range(first, first + size)
    ]
    return OpenGroup(key=attempts[0].id, batch=batch, draw=draw, attempts=attempts)


def plan_continuations(
    prefix: Prefix, *, batch: int, sampling: Sampling, seed: int, max_length: int
) -> OpenGroup:
    """The continuations of a prefix: ids are `<rollout id>@<length>~<number>`."""
    rollout = prefix.rollout
    rollout.require_single_turn("continuing the prefix of a completion")
    prompt, completion = rollout.turns
    kept = slice(0, prefix.length)
    room = max_length - len(prompt.token_ids) - prefix.length
    attempts = [
        Attempt(
            id=f"{prefix.id}~{number}",
            seed=request_seed(seed, prefix.id, number),
            prompt_ids=prompt.token_ids,
            sampling=replace(sampling, max_tokens=min(prefix.max_tokens, room)),
            given=prefix.length,
            token_ids=completion.token_ids[kept],
            logprobs=completion.logprobs[kept],
            versions=completion.versions[kept],
            support=None if completion.support is None else completion.support[kept],
        )
        for number in range(prefix.n)
    ]
    draw = TaskDraw(task=prefix.task)
    return OpenGroup(key=prefix.id, batch=batch, draw=draw, attempts=attempts, prefix=prefix)


def request_seed(seed: int, task_id: str, attempt: int) -> int:
    """Stable 63-bit seed of one attempt."""
    digest = hashlib.blake2b(f"{seed}\0{task_id}\0{attempt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def rollouts_of(group: OpenGroup, text_of: TextOf) -> Sequence[Rollout]:
    """Rollouts of the attempts that were asked for, in order."""
    return [
        attempt.rollout(group.task.id, text_of) for attempt in group.attempts[: group.started]
    ]
