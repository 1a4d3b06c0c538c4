"""Generation of completions: prompts go to the engine, finished groups of completions go to the rewards.

One generator serves a whole stage:

    generator.start(draws, batch=7)          queue `group_size` requests for each task
    finished = generator.pump(0.2)           submit requests, collect completions, send whole groups to the rewards;
                                             returns the groups that are generated and scored
    generator.drain()                        before new weights are loaded: nothing is in the engine afterwards

A completion that the engine stopped early, because it was drained or because its server died, goes on with a further request
that continues its tokens; such a request is called a leg. An engine in this process generates only while it is waited for, so
there nothing is under way when weights are loaded, and no completion has legs.

With an environment (`episodes`) a finished completion is given to it, and its reply begins the next completion.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from rlcore.errors import TaskError
from rlcore.rollout import engine as engines
from rlcore.rollout.attempt import Attempt
from rlcore.rollout.engine import POLL_S, Engine
from rlcore.rollout.episodes import Episodes, NoEpisodes
from rlcore.rollout.open_group import (
    BatchCost,
    FinishedGroup,
    OpenGroup,
    TaskDraw,
    plan_continuations,
    plan_group,
    rollouts_of,
)
from rlcore.rollout.prompt import PromptEncoder
from rlcore.rollout.scorer import Scorer
from rlcore.types import Completion, Group, Prefix, Request, Sampling, Verdict

REPLY_S = 0.02
"""Longest wait for the engine while an environment is asked: its reply should not wait much."""


class Generator:
    """Queues requests, collects completions, sends whole groups to the scorer.

    With a deterministic engine it works in waves: requests are submitted only when everything submitted before is generated
    and scored. Which requests are decoded together then does not depend on the clock, and equal runs are equal bit for bit.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        encoder: PromptEncoder,
        scorer: Scorer,
        sampling: Sampling,
        group_size: int,
        seed_of_batch: Callable[[int], int],
        max_length: int,
        deadline_s: float = 600.0,
        max_requests: int = sys.maxsize,
        probe: int | None = None,
        episodes: Episodes | None = None,
    ) -> None:
        """deadline_s: for each group, from its first request on; later its unfinished completions are aborted.
        max_requests: in flight at the same time; the others wait. probe: completions of a group that are generated and scored
        first. episodes: the environment; None where a rollout is a prompt and one completion."""
        self._engine, self._encoder, self._scorer = engine, encoder, scorer
        self._sampling, self._seed_of_batch = sampling, seed_of_batch
        self._group_size, self._max_length = group_size, max_length
        self.deadline_s, self._max_requests = deadline_s, max_requests
        self._probe = probe or group_size
        self._episodes = episodes or NoEpisodes()
        self._open: dict[str, OpenGroup] = {}
        self._probed: dict[str, OpenGroup] = {}
        self._queue: deque[tuple[OpenGroup, Attempt]] = deque()
        self._in_flight: dict[str, tuple[OpenGroup, Attempt]] = {}
        # request ids of dropped groups, and when they must be back
        self._abandoned: dict[str, float] = {}
        self._unscored: list[FinishedGroup] = []  # groups without a rollout to score
        self._costs: dict[int, BatchCost] = defaultdict(BatchCost)
        self._attempts = 0

    # queueing ----------------------------------------------------------------------------------------------

    def start(self, draws: Sequence[TaskDraw], *, batch: int) -> None:
        """Begin the groups of these tasks. Raises `TaskError` if a prompt leaves no room for a completion."""
        for group in [self._plan(draw, batch) for draw in draws]:
            self._costs[batch].groups += 1
            self._enqueue(group, self._probe)

    def complete(self, keys: Sequence[str]) -> None:
        """Generate the other completions of groups of which a probe was scored."""
        for key in keys:
            self._enqueue(self._probed.pop(key), self._group_size)

    def continue_prefixes(
        self, prefixes: Sequence[Prefix], *, batch: int, seed: int, deadline_s: float
    ) -> None:
        """Continue prefixes of completions; their groups come back from `pump` with `prefix` set.

        Continuations that are not finished after `deadline_s` are left out of their group.
        """
        for prefix in prefixes:
            group = plan_continuations(
                prefix,
                batch=batch,
                sampling=self._sampling,
                seed=seed,
                max_length=self._max_length,
            )
            self._enqueue(group, prefix.n)
            group.deadline = time.monotonic() + deadline_s

    def abort_unfinished_groups(self, batch: int) -> None:
        """Abort the groups of a batch that are still being generated: it has enough."""
        for group in self._of_batch(batch):
            if group.running:
                self._drop(group)

    def _of_batch(self, batch: int) -> list[OpenGroup]:
        return [group for group in self._open.values() if group.batch == batch]

    def _plan(self, draw: TaskDraw, batch: int) -> OpenGroup:
        seed = self._seed_of_batch(batch)
        if self._episodes.make_prompts:
            return plan_group(
                draw,
                [],
                batch=batch,
                size=self._group_size,
                sampling=self._sampling,
                seed=seed,
            )
        prompt_ids = self._encoder.encode(draw.task)
        room = self._max_length - len(prompt_ids)
        if room < 1:
            raise TaskError(
                f"the prompt of task {draw.task.id!r} has {len(prompt_ids)} tokens and max_length is {self._max_length}, "
                "which leaves no room for a completion; leave the task out, shorten its prompt or raise engine.max_length"
            )
        return plan_group(
            draw,
            prompt_ids,
            batch=batch,
            size=self._group_size,
            sampling=replace(self._sampling, max_tokens=min(self._sampling.max_tokens, room)),
            seed=seed,
        )

    def _enqueue(self, group: OpenGroup, until: int) -> None:
        """Queue the attempts of a group up to number `until`, without those of before."""
        # A group whose probe expired is never completed: its batch's deadline is the earlier one.
        before, group.started = group.started, min(until, len(group.attempts))
        group.deadline, group.scoring = None, False
        self._open[group.key] = group
        for attempt in group.attempts[before : group.started]:
            self._attempts += 1
            attempt.order = self._attempts
            if self._episodes.make_prompts:
                self._episodes.begin(attempt, group)
            else:
                self._queue.append((group, attempt))

    # working -----------------------------------------------------------------------------------------------

    @property
    def generating(self) -> bool:
        """Whether a request is queued or in flight, or an environment is asked."""
        return bool(self._queue or self._in_flight or self._episodes.waiting)

    def unfinished_groups(self, batch: int) -> int:
        """Groups of a batch that are being generated or scored."""
        return len(self._of_batch(batch)) + sum(done.batch == batch for done in self._unscored)

    def cost(self, batch: int) -> BatchCost:
        """What a batch has cost so far, continuations of prefixes aside."""
        return self._costs[batch]

    def forget(self, batch: int) -> None:
        """Drop what is kept of a batch that is complete: its cost, and probes that nobody asked to complete."""
        self._costs.pop(batch, None)
        self._probed = {
            key: group for key, group in self._probed.items() if group.batch != batch
        }

    def pump(self, timeout_s: float = POLL_S) -> list[FinishedGroup]:
        """Submit what may be submitted, let engine and scorer work at most about `timeout_s`; groups that are finished.

        Raises `EngineError` if aborted requests do not come back, `RewardError` if scoring makes no progress.
        """
        self._hear_environments(0.0)
        self._submit()
        self._enforce_deadlines()
        if self._in_flight or self._abandoned:
            wait_s = min(timeout_s, REPLY_S) if self._episodes.waiting else timeout_s
            for completion in self._engine.poll(wait_s):
                self._add_completion(completion)
        elif self._episodes.waiting:
            self._hear_environments(timeout_s)
        finished, self._unscored = self._unscored, []
        waits = not self.generating and not finished
        for key, verdicts in self._scorer.poll(timeout_s if waits else 0.0):
            if key in self._open:
                finished.append(self._finish(self._open.pop(key), verdicts))
        self._scorer.check_progress()
        return finished

    def _hear_environments(self, timeout_s: float) -> None:
        """Queue the attempts that go on; those that are over may complete their group."""
        for group, attempt in self._episodes.poll(timeout_s):
            if not attempt.is_over:
                self._queue.append((group, attempt))
            elif not group.running:
                self._send_to_scorer(group)

    def _submit(self) -> None:
        if self._engine.deterministic:
            scoring = any(group.scoring for group in self._open.values())
            if self._in_flight or self._episodes.waiting or scoring:
                return
            # Environments reply in any order.
            self._queue = deque(sorted(self._queue, key=lambda entry: entry[1].order))
        requests: list[Request] = []
        while self._queue and len(self._in_flight) < self._max_requests:
            group, attempt = self._queue.popleft()
            if group.deadline is None:
                group.deadline = time.monotonic() + self.deadline_s
            self._in_flight[attempt.request_id] = (group, attempt)
            requests.append(attempt.request())
        if requests:
            self._engine.submit(requests)

    def _enforce_deadlines(self) -> None:
        """Abort what is late, once; an engine that keeps aborted requests is dead."""
        now = time.monotonic()
        for group in list(self._open.values()):
            if group.deadline is not None and now > group.deadline and group.running:
                self._expire(group)
        overdue = [id for id, until in self._abandoned.items() if now > until]
        if overdue:
            raise engines.not_handed_back(overdue)

    def _expire(self, group: OpenGroup) -> None:
        self._episodes.forget(group)
        ids = [a.request_id for a in group.running if a.request_id in self._in_flight]
        if group.expired:
            raise engines.not_handed_back(ids)
        group.expired, group.deadline = True, time.monotonic() + engines.ABORT_GRACE_S
        for attempt in self._take_from_queue(group):
            attempt.finish = "aborted"
        if ids:
            self._engine.abort(ids)
        else:
            self._send_to_scorer(group)

    def _take_from_queue(self, group: OpenGroup) -> list[Attempt]:
        """Remove the attempts of a group that wait for their turn."""
        removed = [attempt for owner, attempt in self._queue if owner is group]
        self._queue = deque(entry for entry in self._queue if entry[0] is not group)
        return removed

    def _add_completion(self, completion: Completion) -> None:
        """Add a completion to its group; the last one of a group sends it to the scorer."""
        if self._abandoned.pop(completion.request_id, None) is not None:
            return
        group, attempt = self._in_flight.pop(completion.request_id)
        if group.prefix is None:
            cost = self._costs[group.batch]
            cost.completion_tokens += len(completion.token_ids)
            if attempt.leg == 0:
                cost.prompt_tokens += attempt.new_prompt_ids
        attempt.add(completion)
        if attempt.finish is None and group.expired:
            attempt.finish = "aborted"
        elif attempt.finish is None:
            # lost with its server, or drained: the next leg goes on
            self._queue.append((group, attempt))
        self._episodes.completed(attempt, group)
        if not group.running:
            self._send_to_scorer(group)

    def _send_to_scorer(self, group: OpenGroup) -> None:
        if group.prefix is not None:  # continuations that were cut say nothing of their prefix
            group.attempts = [a for a in group.attempts if a.finish != "aborted"]
            group.started = len(group.attempts)
        if not group.started:
            self._unscored.append(self._finish(self._open.pop(group.key), []))
            return
        group.scoring = True
        # All that was generated, the completions of a probe again: rewards may compare within a group.
        self._scorer.submit(
            group.key, group.task, rollouts_of(group, self._encoder.completion_text)
        )

    def _finish(self, group: OpenGroup, verdicts: list[Verdict]) -> FinishedGroup:
        complete = group.started == len(group.attempts)
        if not complete:
            group.scoring = False
            self._probed[group.key] = group
        rollouts = list(rollouts_of(group, self._encoder.completion_text))
        return FinishedGroup(
            key=group.key,
            batch=group.batch,
            draw=group.draw,
            group=Group(task=group.task, rollouts=rollouts, verdicts=verdicts),
            complete=complete,
            prefix=group.prefix,
        )

    def _drop(self, group: OpenGroup) -> None:
        del self._open[group.key]
        self._episodes.forget(group)
        self._take_from_queue(group)
        ids = [id for id, (owner, _) in self._in_flight.items() if owner is group]
        for id in ids:
            del self._in_flight[id]
            self._abandoned[id] = time.monotonic() + engines.ABORT_GRACE_S
        if ids:
            self._engine.abort(ids)

    # weight updates ------------------------------------------------------------------------------------------

    def submit_waiting(self) -> None:
        """Hand the engine at once what waits for it, without waiting for anything."""
        self._submit()

    def drain(self) -> None:
        """Empty the engine. Requests that are still wanted are queued again with the tokens they have.

        Where nothing is generated while the learner works, only requests of dropped groups are left, whose end is waited for.
        """
        ids = [*self._in_flight, *self._abandoned]
        if not ids:
            return
        waiting = list(self._queue)
        self._queue.clear()
        self._engine.abort(list(self._in_flight))
        for completion in engines.drain(
            self._engine, ids, time.monotonic() + engines.ABORT_GRACE_S
        ):
            self._add_completion(completion)
        # Legs that were under way come first, in the order in which their groups were started.
        place = {key: number for number, key in enumerate(self._open)}
        legs = sorted(self._queue, key=lambda entry: (place[entry[0].key], entry[1].id))
        self._queue = deque([*legs, *waiting])
