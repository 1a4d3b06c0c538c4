"""A group that is not finished: the task, its attempts, and until when they may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlcore.rollout.attempt import Attempt, TextOf, request_seed
from rlcore.types import Group, Prefix, Rollout, Sampling, Task


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
    environment_seed: int = 0
    """Equal for all attempts."""

    @property
    def task(self) -> Task:
        return self.draw.task

    @property
    def running(self) -> list[Attempt]:
        """Attempts that were asked for and are not over."""
        return [attempt for attempt in self.attempts[: self.started] if not attempt.is_over]


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
            new_prompt_ids=len(prompt_ids),
        )
        for number in range(first, first + size)
    ]
    return OpenGroup(
        key=attempts[0].id,
        batch=batch,
        draw=draw,
        attempts=attempts,
        environment_seed=request_seed(seed, f"{draw.task.id}/environment", draw.occurrence),
    )


def plan_continuations(
    prefix: Prefix, *, batch: int, sampling: Sampling, seed: int, max_length: int
) -> OpenGroup:
    """The continuations of a prefix: ids are `<rollout id>@<length>~<number>`."""
    rollout = prefix.rollout
    if prefix.temperature is not None:
        sampling = replace(sampling, temperature=prefix.temperature)
    if rollout.episode is not None:
        return _plan_continued_turns(prefix, batch=batch, sampling=sampling, seed=seed)
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


def _plan_continued_turns(
    prefix: Prefix, *, batch: int, sampling: Sampling, seed: int
) -> OpenGroup:
    """The continuations of a rollout with an environment from the end of a turn on."""
    rollout = prefix.rollout
    draw = TaskDraw(task=prefix.task)
    attempts = []
    for number in range(prefix.n):
        attempt = Attempt(
            id=f"{prefix.id}~{number}",
            seed=request_seed(seed, prefix.id, number),
            prompt_ids=[],
            sampling=sampling,
        )
        if prefix.length:
            attempt.take_turns(rollout, prefix.length)
        attempts.append(attempt)
    return OpenGroup(
        key=prefix.id,
        batch=batch,
        draw=draw,
        attempts=attempts,
        prefix=prefix,
        environment_seed=rollout.episode.seed if rollout.episode else 0,
    )


def rollouts_of(group: OpenGroup, text_of: TextOf) -> Sequence[Rollout]:
    """Rollouts of the attempts that were asked for, in order."""
    return [
        attempt.rollout(group.task.id, text_of) for attempt in group.attempts[: group.started]
    ]
