"""From tasks to scored groups: submit, stream, score while others still write, replace what a filter rejects, cut stragglers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlcore.errors import EngineError, RewardError
from rlcore.rollout.clock import POLL_S, Clock
from rlcore.rollout.desk import Desk, Scorer, request_seed
from rlcore.rollout.engine import Engine
from rlcore.rollout.prompt import PromptEncoder
from rlcore.types import Completion, Group, Request, Sampling, Task

__all__ = ["Collected", "Resample", "Scorer", "collect", "generate", "request_seed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resample:
    """How a batch is held at its size although some groups are rejected."""

    accepts: Callable[[Group], bool]
    """The filter."""
    more: Callable[[int], Sequence[Task]]
    """So many further tasks."""
    rounds: int = 10
    """At most so many times the batch is tried; then the batch stays smaller."""
    probe: int | None = None
    """Answers to a task that are scored first; the others are written only if the filter accepts these."""
    oversubmit: float = 1.0
    """Groups under way for each one that is missing. Above 1 a batch is full sooner, and what is under way then is wasted."""
    streaming: bool = False
    """Replace a group at once, and stop when the batch is full. Otherwise go in rounds, each begun when the one before is scored:
    which requests are written together then does not depend on the clock."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """Scored groups in task order, and what they cost. A place is a position among all tasks tried: those given, then resamples."""

    groups: list[Group]
    places: list[int]
    """Of `groups`, ascending."""
    rejected: list[Group]
    """Turned away by the filter, after a probe perhaps, or accepted when the batch was already full."""
    rejected_places: list[int]
    spare: set[int]
    """Places of `rejected` that the filter accepted."""
    tried: int
    """Groups begun; those dropped half written because the batch was full are neither in `groups` nor in `rejected`."""
    rollout_s: float
    """From the first request to the last completion."""
    reward_s: float
    """Waiting for verdicts while nothing was written: scoring that generation did not hide."""
    prompt_tokens: int
    """Over all rollouts, a prompt counted for each."""
    completion_tokens: int


def collect(
    tasks: Sequence[Task],
    *,
    engine: Engine,
    encoder: PromptEncoder,
    scorer: Scorer,
    sampling: Sampling,
    group_size: int,
    seed: int,
    deadline_s: float,
    max_length: int,
    reward_deadline_s: float = 600.0,
    resample: Resample | None = None,
) -> Collected:
    """Write and score `group_size` answers to every task; groups come in task order whatever finished first.

    Requests are named `<task id>#<attempt>`; a task that occurs again continues the count, so ids stay unique. What is not
    written `deadline_s` after the start is aborted and keeps its tokens with finish "aborted". A request whose prompt
    leaves less room than `max_tokens` is cut to fit `max_length`. With `resample` as many groups are returned as tasks were given,
    all accepted, unless its rounds or the deadline end first. Raises `TaskError` if a prompt leaves no room at all,
    `EngineError` if aborted requests do not come back, `RewardError` if verdicts are missing `reward_deadline_s` after
    the last completion. The engine and scorer must have nothing else in flight.
    """
    started = written = time.monotonic()
    clock = Clock(engine, started + deadline_s)
    desk = Desk(
        encoder=encoder,
        scorer=scorer,
        sampling=sampling,
        group_size=group_size,
        seed=seed,
        max_length=max_length,
        probe=resample and resample.probe,
    )
    batch = _Batch(len(tasks), resample, group_size)
    first = [*tasks, *batch.more(tried=len(tasks), open=len(tasks))]
    engine.submit(desk.plan(first))
    scoring_s = 0.0
    while desk.open or desk.writing:
        writes = bool(desk.writing)
        if writes:
            for completion in clock.poll(desk.writing):
                desk.file(completion)
            written = time.monotonic()
        elif time.monotonic() > written + reward_deadline_s:
            raise _no_verdicts(desk, reward_deadline_s)
        waiting = time.monotonic()
        for place, group in desk.scored(0.0 if writes else POLL_S):
            batch.judge(place, group)
        if not writes:
            scoring_s += time.monotonic() - waiting
        if batch.enough:
            clock.abort(desk.drop_unwritten())
        elif not clock.passed:
            next_ones = desk.complete(batch.promising(open=desk.open))
            next_ones += desk.plan(batch.more(tried=desk.tried, open=desk.open))
            if next_ones:
                engine.submit(next_ones)
    return batch.collected(desk, rollout_s=written - started, reward_s=scoring_s)


def generate(engine: Engine, requests: Sequence[Request], deadline_s: float) -> list[Completion]:
    """Completions in request order. Raises `EngineError` if they are not all written in time, after aborting the rest."""
    engine.submit(requests)
    clock = Clock(engine, time.monotonic() + deadline_s)
    waiting, done = {request.id for request in requests}, {}
    while waiting:
        found = {completion.request_id: completion for completion in clock.poll(waiting)}
        done |= found
        waiting -= found.keys()
    late = [request.id for request in requests if done[request.id].finish == "aborted"]
    if late:
        raise EngineError(
            f"{len(late)} of {len(requests)} requests were not finished after {deadline_s:g} s (first: "
            f"{late[0]!r}) and were aborted; raise the deadline or lower max_tokens"
        )
    return [done[request.id] for request in requests]


class _Batch:
    """The groups that are scored, which of them are accepted, and how many are missing."""

    def __init__(self, size: int, resample: Resample | None, group_size: int) -> None:
        self._size, self._resample, self._group_size = size, resample, group_size
        self.groups: dict[int, Group] = {}
        self._passed: set[int] = set()  # the filter, when they were judged last
        self._accepted: set[int] = set()  # those of them that are whole
        self._promising: list[int] = []

    def judge(self, place: int, group: Group) -> None:
        """A group that is scored, or the part of it that was probed, which comes again if it is completed."""
        self.groups[place] = group
        self._passed.discard(place)
        if self._resample is None or self._resample.accepts(group):
            self._passed.add(place)
            if len(group.rollouts) == self._group_size:
                self._accepted.add(place)
            else:
                self._promising.append(place)

    def promising(self, *, open: int) -> list[int]:
        """Places of the probed groups to be completed now, each once: without streaming, when all that are open are judged."""
        if self._resample is None or (open and not self._resample.streaming):
            return []
        places, self._promising = sorted(self._promising), []
        return places

    @property
    def enough(self) -> bool:
        return (
            self._resample is not None
            and self._resample.streaming
            and len(self._accepted) >= self._size
        )

    def more(self, *, tried: int, open: int) -> Sequence[Task]:
        """Further tasks, where groups are missing and may be replaced now. `open`: groups not judged yet."""
        if self._resample is None or (self.groups and open and not self._resample.streaming):
            return []
        missing = max(0, self._size - len(self._accepted))
        n = min(
            math.ceil(missing * self._resample.oversubmit) - open,
            self._resample.rounds * self._size - tried,
        )
        return self._resample.more(n) if n > 0 else []

    def collected(self, desk: Desk, *, rollout_s: float, reward_s: float) -> Collected:
        accepted = sorted(self._accepted)[: self._size]
        rejected = sorted(self.groups.keys() - set(accepted))
        return Collected(
            groups=[self.groups[place] for place in accepted],
            places=accepted,
            rejected=[self.groups[place] for place in rejected],
            rejected_places=rejected,
            spare=self._passed.intersection(rejected),
            tried=desk.tried,
            rollout_s=rollout_s,
            reward_s=reward_s,
            prompt_tokens=desk.prompt_tokens,
            completion_tokens=desk.completion_tokens,
        )


def _no_verdicts(desk: Desk, deadline_s: float) -> RewardError:
    late = desk.unscored()
    return RewardError(
        f"{len(late)} of {desk.tried} groups have no verdict {deadline_s:g} s after the last "
        f"answer (first: task {late[0]!r}); make the reward faster or raise its deadline"
    )
