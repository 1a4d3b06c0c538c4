"""Batches of groups: which groups a filter accepts, and what is sampled in place of those it rejects."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rlcore.rollout.engine import POLL_S, Engine
from rlcore.rollout.generator import Generator
from rlcore.rollout.open_group import BatchCost, FinishedGroup, TaskDraw
from rlcore.types import Group, Prefix, Task

Accepts = Callable[[Group], bool]
DrawReplacements = Callable[[int], Sequence[TaskDraw]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Resample:
    """How a batch is held at its size although groups are rejected."""

    accepts: Accepts
    draw_replacements: DrawReplacements
    """The next n draws for this batch, in place of rejected groups."""
    max_gen_batches: int = 10
    """Groups started for a batch, in multiples of its size; then it stays smaller."""
    oversubmit: float = 1.0
    """Groups in flight for each missing one. Above 1 a batch is full sooner, and what is in flight then is wasted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectedBatch:
    """Scored groups of one batch in the order of their draws, and what they cost."""

    number: int
    groups: list[Group]
    draws: list[TaskDraw]
    """Of `groups`."""
    rejected: list[Group]
    """By the filter, after a probe perhaps; or accepted when the batch was already full."""
    rejected_draws: list[TaskDraw]
    surplus: set[int]
    """Which of `rejected` (by index) the filter accepted."""
    tried: int
    """Groups started; those aborted because the batch was full are neither in `groups` nor in `rejected`."""
    rollout_s: float
    """Waiting while something was being generated."""
    reward_s: float
    """Waiting for verdicts while nothing was being generated: scoring that generation did not hide."""
    prompt_tokens: int
    """Over all rollouts; a prompt counts for each of its completions."""
    completion_tokens: int


class Collector:
    """Collects batches from a generator. Several may be under way; they are waited for one by one."""

    def __init__(self, generator: Generator, *, streaming: bool) -> None:
        """streaming: replace a rejected group at once and stop when the batch is full. Otherwise go in rounds, each started
        when the one before is scored: which requests are decoded together then does not depend on the clock."""
        self.generator = generator
        self._streaming = streaming
        self._batches: dict[int, _BatchInProgress] = {}
        self._continued: dict[int, dict[str, Group]] = {}
        self.idle_s = 0.0
        """How long the last `working` had nothing left to do."""

    def start(
        self, number: int, draws: Sequence[TaskDraw], resample: Resample | None = None
    ) -> None:
        """Begin a batch of as many groups as there are draws."""
        deadline = time.monotonic() + self.generator.deadline_s
        batch = _BatchInProgress(number, len(draws), resample, self._streaming, deadline)
        self._batches[number] = batch
        extra = batch.further_draws(started=len(draws), in_flight=len(draws))
        self.generator.start([*draws, *extra], batch=number)

    def wait(self, number: int) -> CollectedBatch:
        """Pump until a batch is complete: every group scored and, with `resample`, the batch full or `max_gen_batches` reached."""
        batch = self._batches[number]
        rollout_s = reward_s = 0.0
        while self.generator.unfinished_groups(number):
            began, generating = time.monotonic(), self.generator.generating
            self._pump()
            if generating:
                rollout_s += time.monotonic() - began
            else:
                reward_s += time.monotonic() - began
        del self._batches[number]
        cost = self.generator.cost(number)
        self.generator.forget(number)
        return batch.collected(cost, rollout_s=rollout_s, reward_s=reward_s)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Go on with what was started, in a thread, while the body computes. The body uses neither generator nor scorer.

        What goes wrong in the thread is raised at the end of the body.
        """
        stop = threading.Event()
        errors: list[BaseException] = []
        ended = time.monotonic()

        def work() -> None:
            nonlocal ended
            try:
                while self._is_unfinished and not stop.is_set():
                    self._pump()
            except BaseException as error:
                errors.append(error)
            ended = time.monotonic()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            body_ended = time.monotonic()
            stop.set()
            thread.join()
            self.idle_s = max(0.0, body_ended - ended)
        if errors:
            raise errors[0]

    def wait_for_all(self) -> None:
        """Pump until every batch that was started is complete; each is still to be fetched by `wait`."""
        while self._is_unfinished:
            self._pump()

    @property
    def _is_unfinished(self) -> bool:
        return any(map(self.generator.unfinished_groups, self._batches))

    def continue_prefixes(
        self, prefixes: Sequence[Prefix], *, batch: int, seed: int, deadline_s: float
    ) -> list[Group]:
        """The groups of whole completions that continue each prefix, with their verdicts, in the order of `prefixes`.

        Completions that are not finished after `deadline_s` are left out, so a group may hold fewer than asked for, or none.
        """
        finished = self._continued[batch] = {}
        self.generator.continue_prefixes(
            prefixes, batch=batch, seed=seed, deadline_s=deadline_s
        )
        while len(finished) < len(prefixes):
            self._pump()
        del self._continued[batch]
        return [finished[prefix.id] for prefix in prefixes]

    def _pump(self) -> None:
        for done in self.generator.pump(POLL_S):
            if done.prefix is not None:
                self._continued[done.batch][done.key] = done.group
            else:
                self._batches[done.batch].add(done)
        for batch in self._batches.values():
            self._top_up(batch)

    def _top_up(self, batch: _BatchInProgress) -> None:
        """Ask for what a batch is missing, or give up what it does not need any more."""
        if batch.can_drop_the_rest:
            self.generator.abort_unfinished_groups(batch.number)
            return
        if time.monotonic() > batch.deadline:  # what is late is cut; the batch stays smaller
            return
        self.generator.complete(
            batch.promising(in_flight=self.generator.unfinished_groups(batch.number))
        )
        draws = batch.further_draws(
            started=self.generator.cost(batch.number).groups,
            in_flight=self.generator.unfinished_groups(batch.number),
        )
        self.generator.start(draws, batch=batch.number)


class _BatchInProgress:
    """Which groups of a batch are scored and accepted, and how many are missing."""

    def __init__(
        self,
        number: int,
        size: int,
        resample: Resample | None,
        streaming: bool,
        deadline: float,
    ) -> None:
        self.number = number
        self.deadline = deadline
        """Monotonic time after which nothing more is asked for."""
        self._size, self._resample, self._streaming = size, resample, streaming
        self._finished: dict[str, FinishedGroup] = {}
        # keys that the filter accepted when they were judged last
        self._passed: set[str] = set()
        self._accepted: set[str] = set()  # those of them that are complete
        self._promising: list[FinishedGroup] = []  # accepted probes

    @property
    def can_drop_the_rest(self) -> bool:
        """Streaming only: enough groups are accepted, so those still being generated can be aborted."""
        streams = self._resample is not None and self._streaming
        return streams and len(self._accepted) >= self._size

    def add(self, done: FinishedGroup) -> None:
        """Judge a group that is scored, or its probe, which comes again if it is completed."""
        self._finished[done.key] = done
        self._passed.discard(done.key)
        if self._resample is not None and not self._resample.accepts(done.group):
            return
        self._passed.add(done.key)
        if done.complete:
            self._accepted.add(done.key)
        else:
            self._promising.append(done)

    def promising(self, *, in_flight: int) -> list[str]:
        """Keys of the accepted probes to be completed now, each once. in_flight: unfinished groups of the batch."""
        if self._resample is None or (in_flight and not self._streaming):
            return []
        probes = sorted(self._promising, key=lambda done: done.draw.order)
        self._promising = []
        return [done.key for done in probes]

    def further_draws(self, *, started: int, in_flight: int) -> Sequence[TaskDraw]:
        """Further draws, where groups are missing and may be started now. started, in_flight: groups of the batch."""
        # Without streaming a round must end before the next one starts; before the first verdict only
        # `oversubmit` asks for more.
        round_is_running = bool(self._finished and in_flight and not self._streaming)
        if self._resample is None or round_is_running:
            return []
        missing = max(0, self._size - len(self._accepted))
        wanted = math.ceil(missing * self._resample.oversubmit) - in_flight
        allowed = self._resample.max_gen_batches * self._size - started
        n = min(wanted, allowed)
        return self._resample.draw_replacements(n) if n > 0 else []

    def collected(
        self, cost: BatchCost, *, rollout_s: float, reward_s: float
    ) -> CollectedBatch:
        done = sorted(self._finished.values(), key=lambda one: one.draw.order)
        accepted = [one for one in done if one.key in self._accepted][: self._size]
        keys = {one.key for one in accepted}
        rejected = [one for one in done if one.key not in keys]
        surplus = {i for i, one in enumerate(rejected) if one.key in self._passed}
        return CollectedBatch(
            number=self.number,
            groups=[one.group for one in accepted],
            draws=[one.draw for one in accepted],
            rejected=[one.group for one in rejected],
            rejected_draws=[one.draw for one in rejected],
            surplus=surplus,
            tried=cost.groups,
            rollout_s=rollout_s,
            reward_s=reward_s,
            prompt_tokens=cost.prompt_tokens,
            completion_tokens=cost.completion_tokens,
        )


def collect(
    tasks: Sequence[Task],
    *,
    engine: Engine,
    seed: int,
    probe: int | None = None,
    resample: Resample | None = None,
    **settings: Any,
) -> CollectedBatch:
    """One batch of these tasks with an engine of one's own. settings: see `Generator`."""
    generator = Generator(
        engine=engine, seed_of_batch=lambda batch: seed, probe=probe, **settings
    )
    collector = Collector(generator, streaming=not engine.deterministic)
    collector.start(0, numbered(tasks), resample)
    return collector.wait(0)


def numbered(tasks: Sequence[Task], *, first: int = 0) -> list[TaskDraw]:
    """Tasks as the draws of a batch, in their order."""
    occurrences: Counter[str] = Counter()
    draws = []
    for order, task in enumerate(tasks, start=first):
        draws.append(TaskDraw(task=task, order=order, occurrence=occurrences[task.id]))
        occurrences[task.id] += 1
    return draws
