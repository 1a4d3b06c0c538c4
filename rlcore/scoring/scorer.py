"""Runs reward functions in worker processes, so that no completion and no plugin can stop a run.

A call that hangs is killed at its deadline (`timed-out`); an exception, a dead worker or exhausted
memory is `crashed`. Both have no value, never 0, and leave the loss and the group statistics.
Lost workers are replaced at once. Each worker is served by one thread of the parent, so groups are
scored while the caller does something else.
"""

from __future__ import annotations

import atexit
import itertools
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.aggregate import Aggregate, aggregate, weighted_sum
from rlcore.scoring.forms import ENVIRONMENT, GroupView, RewardSpec
from rlcore.scoring.views import turns_of, view_of
from rlcore.scoring.worker import GRACE_S, LOAD_DEADLINE_S, Worker, WorkerLost
from rlcore.types import SCORED, Rollout, Task, Verdict

MAX_TIMEOUTS = 3
"""Calls of one group that may time out before any of its completions is scored; then it is given
up."""
PROGRESS_GRACE_S = 30.0
"""Added to the longest time that a call or an import may take, before no progress is an error."""


class Scorer:
    """A pool of workers that scores groups.

    Example: `Scorer([RewardSpec("math")]).score([(task, rollouts)])[0][0].value`.

    deadline_s: seconds for one call of a reward: one completion, or one group in the batch form. A
    group call that fails is repeated one completion at a time, so that only the completion that
    caused it gets no value; so are concurrent async calls that block.
    memory_gb: limit on each worker's data segment, None for none; a reward's own `memory_gb`
    overrides it.
    rule: from the rewards' values to the completion's value; the sum by weight by default.
    Raises `RewardError` if a reward cannot be found, imported or given its parameters.
    """

    def __init__(
        self,
        rewards: Sequence[RewardSpec],
        *,
        workers: int = 2,
        deadline_s: float = 10.0,
        memory_gb: float | None = 4,
        rule: Aggregate = weighted_sum,
    ) -> None:
        _check_names(rewards)
        self._rewards = list(rewards)
        self._rule = rule
        self._deadline_s = deadline_s
        self._jobs: queue.Queue[tuple[str, Task, list[Rollout]] | None] = queue.Queue()
        self._done: queue.Queue[tuple[str, list[Verdict] | Exception]] = queue.Queue()
        self._open: set[str] = set()
        self._progress = time.monotonic()
        self._counter = itertools.count()
        self._closed = threading.Event()
        called = [spec for spec in rewards if spec.use != ENVIRONMENT]
        self._index = {spec.name: index for index, spec in enumerate(called)}
        """Of the rewards that workers compute, in the workers' list."""
        self._workers = [
            Worker(called, deadline_s=deadline_s, memory_gb=memory_gb)
            for _ in range(max(1, workers) if called else 0)
        ]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), daemon=True)
            for worker in self._workers
        ]
        atexit.register(self.close)
        try:
            if self._workers:
                self._workers[0].ready()
        except RewardError:
            self.close()
            raise
        for thread in self._threads:
            thread.start()

    @property
    def needs(self) -> dict[str, tuple[str, ...]]:
        """Name of each reward that a worker computes -> columns that its tasks must have."""
        if not self._workers:
            return {}
        worker = self._workers[0]
        return {name: worker.reward(index).needs for name, index in self._index.items()}

    def submit(self, key: str, task: Task, rollouts: Sequence[Rollout]) -> None:
        """Queue one group; its verdicts come back from `poll` under `key`."""
        if self._closed.is_set():
            raise RewardError("this scorer is closed")
        if key in self._open:
            raise ValueError(f"group {key!r} is already being scored")
        if not self._open:
            self._progress = time.monotonic()
        self._open.add(key)
        if self._workers:
            self._jobs.put((key, task, list(rollouts)))
        else:
            self._done.put((key, self._score_group(None, task, list(rollouts))))

    def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
        """Groups scored since the last call; waits at most `timeout_s` for the first.

        Returns at once if nothing is queued.
        """
        finished = []
        try:
            if self._open:
                finished.append(self._done.get(timeout=timeout_s))
            while True:
                finished.append(self._done.get_nowait())
        except queue.Empty:
            pass
        for key, result in finished:
            self._open.discard(key)
            if isinstance(result, Exception):
                raise result
        return finished  # type: ignore[return-value]

    @property
    def waiting_s(self) -> float:
        """Seconds since a reward call last finished; 0 if no group is open."""
        return time.monotonic() - self._progress if self._open else 0.0

    def check_progress(self) -> None:
        """Raise `RewardError` if reward calls have stopped finishing.

        The wait for verdicts as a whole has no limit: a slow judge may need hours for a batch. But
        each worker finishes or kills a call within its deadline, so a longer silence is an error.
        """
        limit_s = self._deadline_s + GRACE_S
        if not all(worker.loaded for worker in self._workers):
            limit_s = max(limit_s, LOAD_DEADLINE_S)
        waiting_s = self.waiting_s
        if waiting_s > limit_s + PROGRESS_GRACE_S:
            raise RewardError(
                f"no reward call has finished for {waiting_s:.0f} s, although `reward_deadline_s` "
                f"({self._deadline_s:g} s) bounds every call: the reward workers are stuck with "
                f"{len(self._open)} open groups; fix the reward and rerun with --resume"
            )

    def score(self, items: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Verdict]]:
        """Score groups and wait for all of them; the verdicts have the order of `items`."""
        keys = [f"score/{next(self._counter)}" for _ in items]
        for key, (task, rollouts) in zip(keys, items, strict=True):
            self.submit(key, task, rollouts)
        verdicts: dict[str, list[Verdict]] = {}
        while not verdicts.keys() >= set(keys):
            verdicts.update(self.poll(1.0))
            self.check_progress()
        # Groups that the caller had submitted before are kept for `poll`.
        for key in verdicts.keys() - set(keys):
            self._open.add(key)
            self._done.put((key, verdicts[key]))
        return [verdicts[key] for key in keys]

    def close(self) -> None:
        """Kill the workers; open groups are dropped."""
        if self._closed.is_set():
            return
        self._closed.set()
        atexit.unregister(self.close)
        for worker in self._workers:
            self._jobs.put(None)
            worker.close()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(5.0)

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _serve(self, worker: Worker) -> None:
        while True:
            job = self._jobs.get()
            if job is None or self._closed.is_set():
                return
            key, task, rollouts = job
            try:
                self._done.put((key, self._score_group(worker, task, rollouts)))
            except Exception as error:  # a bug, or a task that cannot be sent: `poll` raises it
                self._done.put((key, error))

    def _score_group(
        self, worker: Worker | None, task: Task, rollouts: list[Rollout]
    ) -> list[Verdict]:
        """worker: None where no reward needs one."""
        rewards = [spec for spec in self._rewards if spec.is_for(task)]
        if not rewards:
            return [_NOBODY] * len(rollouts)
        problems = [_problem(rollout) for rollout in rollouts]
        live = [i for i, problem in enumerate(problems) if problem is None]
        view = view_of(task, [rollouts[i] for i in live])
        by_reward: list[list[Verdict]] = []
        for spec in rewards:
            if worker is None or spec.use == ENVIRONMENT:
                by_reward.append([_of_environment(rollouts[i]) for i in live])
            elif spec.turn is not None:
                by_reward.append(
                    self._score_turn(worker, spec, task, [rollouts[i] for i in live])
                )
            else:
                by_reward.append(self._score_with(worker, spec, view) if live else [])
        no_parts = {spec.name: None for spec in rewards}
        verdicts = [replace(problem or _UNKNOWN, parts=no_parts) for problem in problems]
        for position, i in enumerate(live):
            verdicts[i] = aggregate(
                rewards,
                [scored[position] for scored in by_reward],
                self._rule,
                finished=view.finished[position],
                tokens=len(view.completion_ids[position]),
            )
        return verdicts

    def _score_turn(
        self, worker: Worker, spec: RewardSpec, task: Task, rollouts: Sequence[Rollout]
    ) -> list[Verdict]:
        """One reward's verdicts on the same turn of each conversation, [G]."""
        missing = Verdict(value=None, status="unscorable", reason=f"it has no turn {spec.turn}")
        verdicts = [missing] * len(rollouts)
        having = [i for i, rollout in enumerate(rollouts) if turns_of(rollout) >= spec.turn]
        if having:
            view = view_of(task, [rollouts[i] for i in having], turn=spec.turn)
            scored = self._score_with(worker, spec, view)
            for i, verdict in zip(having, scored, strict=True):
                verdicts[i] = verdict
        return verdicts

    def _score_with(self, worker: Worker, spec: RewardSpec, view: GroupView) -> list[Verdict]:
        """One reward's verdicts on a group, [G]."""
        index = self._index[spec.name]
        if spec.against:
            reference = view.columns.get(spec.against)
            if not isinstance(reference, str):
                reason = (
                    f"reward {spec.name!r} compares with the column {spec.against!r}, "
                    "which holds no text in this task"
                )
                return [Verdict(value=None, status="unscorable", reason=reason)] * len(view)
            view = replace(view, columns={**view.columns, "reference": reference})
        try:
            return self._call_safely(worker, index, view)
        except RewardError as error:
            # It was imported before and cannot be now: the file changed, or memory is short.
            self._replace(worker)
            return [Verdict(value=None, status="crashed", reason=str(error))] * len(view)

    def _call_safely(self, worker: Worker, index: int, view: GroupView) -> list[Verdict]:
        """Verdicts by calls in which no completion can spoil the verdict of another one."""
        self._wait_until_ready(worker)
        mode = worker.reward(index).mode
        if mode == "each":
            return self._one_by_one(worker, index, view, timeouts=0)
        try:
            worker.send(index, view, whole=True)
            reply = worker.receive(GRACE_S if mode == "concurrent" else 0.0)
            self._progress = time.monotonic()
            if not isinstance(reply, str):
                return reply
            failure = Verdict(value=None, status="crashed", reason=reply)
        except WorkerLost as lost:
            failure = self._failed(worker, lost)
        if len(view) == 1:
            return [failure]
        timeouts = int(failure.status == "timed-out")
        return self._one_by_one(worker, index, view, timeouts)

    def _one_by_one(
        self, worker: Worker, index: int, view: GroupView, timeouts: int
    ) -> list[Verdict]:
        verdicts: list[Verdict] = []
        while len(verdicts) < len(view):
            self._wait_until_ready(worker)
            try:
                remaining = range(len(verdicts), len(view))
                worker.send(index, view.only(remaining), whole=False)
                for _ in remaining:
                    verdicts.append(worker.receive())
                    self._progress = time.monotonic()
            except WorkerLost as lost:
                verdicts.append(self._failed(worker, lost))
                if lost.status == "timed-out":
                    timeouts += 1
            nothing_scored = all(verdict.status not in SCORED for verdict in verdicts)
            if timeouts >= MAX_TIMEOUTS and nothing_scored:
                reason = f"given up: {timeouts} calls on this group timed out before it"
                given_up = Verdict(value=None, status="timed-out", reason=reason)
                verdicts += [given_up] * (len(view) - len(verdicts))
        return verdicts

    def _failed(self, worker: Worker, lost: WorkerLost) -> Verdict:
        self._replace(worker)
        return Verdict(value=None, status=lost.status, reason=lost.reason)

    def _replace(self, worker: Worker) -> None:
        worker.restart()
        self._progress = time.monotonic()

    def _wait_until_ready(self, worker: Worker) -> None:
        if not worker.loaded:
            worker.ready()
            self._progress = time.monotonic()


_NOBODY = Verdict(
    value=None,
    status="unscorable",
    reason="no reward is for this task: its columns have the values of no `where`",
)
_UNKNOWN = Verdict(value=None, status="unscorable", reason="cut at the rollout deadline")


def _problem(rollout: Rollout) -> Verdict | None:
    """Why no reward is asked about a rollout; None if they are."""
    episode = rollout.episode
    if episode is not None and episode.failed:
        reason = f"its environment: {episode.reason}"
        return Verdict(value=None, status=episode.ending, reason=reason)  # type: ignore[arg-type]
    return _UNKNOWN if rollout.finish == "aborted" else None


def _of_environment(rollout: Rollout) -> Verdict:
    if rollout.episode is None:
        return Verdict(value=None, status="unscorable", reason="it had no environment")
    return Verdict(value=sum(rollout.episode.rewards))


def _check_names(rewards: Sequence[RewardSpec]) -> None:
    if not rewards:
        raise RewardError("no reward is given: name at least one")
    names = [spec.name for spec in rewards]
    for name in names:
        if names.count(name) > 1:
            raise RewardError(
                f"two rewards are called {name!r}: give one of them another `name`"
            )
