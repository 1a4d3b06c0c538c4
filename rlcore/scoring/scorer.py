"""Runs reward functions in worker processes, so that no answer and no plugin can stop or spoil a run.

An answer that hangs its reward is killed at the deadline and `timed-out`; an exception, a dead worker or exhausted memory is
`crashed`; both leave the loss and the group statistics, neither is ever a 0. Worker processes are replaced at once. Each
worker is served by one thread of the parent, so groups are scored while the caller does something else.
"""

from __future__ import annotations

import atexit
import itertools
import queue
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.aggregate import Aggregate, aggregate, weighted_sum
from rlcore.scoring.forms import GroupView, RewardSpec
from rlcore.scoring.worker import GRACE_S, Worker, WorkerLost
from rlcore.types import SCORED, Rollout, Task, Verdict

STRIKES = 3
"""Deadlines one group may use up in one reward before anything of it is scored; then the rest of the group is given up."""


class Scorer:
    """A pool of workers that scores groups. Example: `Scorer([RewardSpec("math")]).score([(task, rollouts)])[0][0].value`.

    deadline_s: seconds one call of a reward may take: one answer, or one group in the batch form. A group call that fails is
    repeated answer by answer, so that one bad answer costs only itself; so is a group of async calls that block.
    memory_gb: bound on each worker's data segment, None for no bound; a reward with a `memory_gb` of its own overrides it.
    rule: from the rewards' values to an answer's; by default their sum by weight.
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
        self._rewards, self._rule = list(rewards), rule
        self._jobs: queue.Queue[tuple[str, Task, list[Rollout]] | None] = queue.Queue()
        self._done: queue.Queue[tuple[str, list[Verdict] | Exception]] = queue.Queue()
        self._open: set[str] = set()
        self._counter = itertools.count()
        self._closed = threading.Event()
        self._workers = [
            Worker(rewards, deadline_s=deadline_s, memory_gb=memory_gb)
            for _ in range(max(1, workers))
        ]
        self._threads = [
            threading.Thread(target=self._serve, args=(worker,), daemon=True)
            for worker in self._workers
        ]
        atexit.register(self.close)
        try:
            self._workers[0].ready()
        except RewardError:
            self.close()
            raise
        for thread in self._threads:
            thread.start()

    def submit(self, key: str, task: Task, rollouts: Sequence[Rollout]) -> None:
        """Queue one group; its verdicts come back from `poll` under `key`."""
        if self._closed.is_set():
            raise RewardError("this scorer is closed")
        if key in self._open:
            raise ValueError(f"group {key!r} is already being scored")
        self._open.add(key)
        self._jobs.put((key, task, list(rollouts)))

    def poll(self, timeout_s: float) -> list[tuple[str, list[Verdict]]]:
        """Groups scored since the last call, waiting at most `timeout_s` for the first; none at once if nothing is queued."""
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

    def score(self, items: Sequence[tuple[Task, Sequence[Rollout]]]) -> list[list[Verdict]]:
        """Score groups and wait for all of them; the verdicts come in the order of `items`."""
        keys = [f"score/{next(self._counter)}" for _ in items]
        for key, (task, rollouts) in zip(keys, items, strict=True):
            self.submit(key, task, rollouts)
        found: dict[str, list[Verdict]] = {}
        while not found.keys() >= set(keys):
            found.update(self.poll(1.0))
        for key in found.keys() - set(keys):  # groups the caller had submitted before
            self._open.add(key)
            self._done.put((key, found[key]))
        return [found[key] for key in keys]

    def close(self) -> None:
        """Kill the workers; groups still under way are dropped."""
        if not self._closed.is_set():
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
        while (job := self._jobs.get()) is not None and not self._closed.is_set():
            key, task, rollouts = job
            try:
                self._done.put((key, self._score_group(worker, task, rollouts)))
            except Exception as error:  # a bug, or a task that cannot be sent: `poll` raises it
                self._done.put((key, error))

    def _score_group(self, worker: Worker, task: Task, rollouts: list[Rollout]) -> list[Verdict]:
        live = [i for i, rollout in enumerate(rollouts) if rollout.finish != "aborted"]
        view = GroupView(
            prompt=task.prompt,
            answer=task.answer,
            columns=task.columns,
            completions=[rollouts[i].text for i in live],
            completion_ids=[rollouts[i].policy_ids for i in live],
            finished=[rollouts[i].finish == "stop" for i in live],
        )
        by_reward = [
            _judge_all(worker, index, spec, view) if live else []
            for index, spec in enumerate(self._rewards)
        ]
        cut = Verdict(
            value=None,
            status="unscorable",
            parts={spec.name: None for spec in self._rewards},
            reason="cut at the rollout deadline",
        )
        verdicts = [cut] * len(rollouts)
        for position, i in enumerate(live):
            verdicts[i] = aggregate(
                self._rewards,
                [judged[position] for judged in by_reward],
                self._rule,
                finished=view.finished[position],
                tokens=len(view.completion_ids[position]),
            )
        return verdicts


def _judge_all(worker: Worker, index: int, spec: RewardSpec, view: GroupView) -> list[Verdict]:
    """One reward's verdicts on a group, [G]; with `against` it is also given the reference completion."""
    if spec.against:
        reference = view.columns.get(spec.against)
        if not isinstance(reference, str):
            reason = f"reward {spec.name!r} compares with the column {spec.against!r}, which holds no text in this task"
            return [Verdict(value=None, status="unscorable", reason=reason)] * len(view)
        view = replace(view, columns={**view.columns, "reference": reference})
    return _judge(worker, index, view)


def _judge(worker: Worker, index: int, view: GroupView) -> list[Verdict]:
    """One reward's verdicts on a group, [G], in calls that no answer can spoil for the others."""
    try:
        worker.ready()
        manner = worker.manner(index)
        if manner == "each":
            return _one_by_one(worker, index, view, strikes=0)
        try:
            worker.send(index, view, whole=True)
            reply = worker.receive(GRACE_S if manner == "side by side" else 0.0)
            if not isinstance(reply, str):
                return reply
            failure = Verdict(value=None, status="crashed", reason=reply)
        except WorkerLost as lost:
            failure = _give_up(worker, lost)
        if len(view.completions) == 1:
            return [failure]
        return _one_by_one(worker, index, view, strikes=int(failure.status == "timed-out"))
    except (
        RewardError
    ) as error:  # it was imported before and cannot be now: the file changed, or memory is short
        worker.restart()
        return [Verdict(value=None, status="crashed", reason=str(error))] * len(view.completions)


def _one_by_one(worker: Worker, index: int, view: GroupView, strikes: int) -> list[Verdict]:
    verdicts: list[Verdict] = []
    missing = len(view.completions)
    while missing:
        worker.ready()
        try:
            worker.send(index, view.only(range(len(verdicts), len(view.completions))), whole=False)
            while missing:
                verdicts.append(worker.receive())
                missing -= 1
        except WorkerLost as lost:
            verdicts.append(_give_up(worker, lost))
            missing -= 1
            strikes += lost.status == "timed-out"
            if strikes >= STRIKES and all(verdict.status not in SCORED for verdict in verdicts):
                reason = f"given up: {strikes} calls on this group timed out before it"
                return verdicts + [Verdict(value=None, status="timed-out", reason=reason)] * missing
    return verdicts


def _give_up(worker: Worker, lost: WorkerLost) -> Verdict:
    worker.restart()
    return Verdict(value=None, status=lost.status, reason=lost.reason)


def _check_names(rewards: Sequence[RewardSpec]) -> None:
    if not rewards:
        raise RewardError("no reward is given: name at least one")
    names = [spec.name for spec in rewards]
    for name in names:
        if names.count(name) > 1:
            raise RewardError(f"two rewards are called {name!r}: give one of them another `name`")
