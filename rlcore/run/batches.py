"""Rollout batches in the order in which they are drawn: from the curriculum's draw to scored groups, and back to the curriculum.

With `max_staleness: n` n batches are under way beyond the one that is being trained: batch b is drawn after the curriculum has
observed the batches up to b - 1 - n, and trained in its turn. No token is older than n versions.

    n = 1      draw b, b+1 | learn b             | observe b+1, draw b+2 | learn b+1             | ...
    servers                | generate, score b+1 |                       | generate, score b+2   |

Servers generate while the learner works (`generating_meanwhile`). An engine in this process cannot: there each batch is
generated whole when it is drawn, in the same order. That is the deterministic reference, and saves no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from rlcore.credit.estimator import Cost
from rlcore.credit.group import group_samples, outcome
from rlcore.curriculum.filter import Filter
from rlcore.curriculum.length_budget import state_budget
from rlcore.curriculum.rank_draws import Draw, RankDraws
from rlcore.curriculum.task_sampler import TaskSampler
from rlcore.rollout.collector import CollectedBatch, Collector, Resample
from rlcore.rollout.generator import Generator
from rlcore.rollout.open_group import TaskDraw
from rlcore.run.batch_state import batch_state, load_batch, part_of_rank
from rlcore.run.metrics import Effort, effort_metrics, tokens_reaching_a_gradient
from rlcore.run.replay import ReplayBuffer
from rlcore.run.rollout_batch import RolloutBatch
from rlcore.types import Group, Outcome, Sample, Task

AddRewards = Callable[[Sequence[Group]], list[Group]]
EstimateStepValues = Callable[[Sequence[Group], int], tuple[list[Group], Cost]]
"""(groups, number of the batch) -> the groups with step values, and what these cost."""
FollowUp = Callable[[Sequence[Group], Callable[[Sequence[Task]], list[Group]]], list[Group]]


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchPlan:
    """How a stage makes its batches."""

    groups_per_step: int
    steps: int
    max_staleness: int = 0
    filter: Filter | None = None
    max_gen_batches: int = 10
    oversubmit: float = 1.0
    budget: Callable[[int], int] | None = None
    """Tokens that the prompt states, by step."""
    budget_text: str = ""
    follow_up: FollowUp | None = None


class _StartedBatch(NamedTuple):
    first: list[Draw]
    """This rank's draws, without those in place of rejected groups."""
    draws: RankDraws
    """Where these come from."""


class BatchSource:
    """This rank's batches of one stage. Every rank calls the same methods in the same order."""

    def __init__(
        self,
        plan: BatchPlan,
        tasks: Sequence[Task],
        curriculum: TaskSampler,
        collector: Collector,
        *,
        rank: int = 0,
        ranks: int = 1,
        gather: Callable[[Any], list[Any]] = list,
        add_policy_rewards: AddRewards = list,
        estimate_step_values: EstimateStepValues | None = None,
        overlap: bool = False,
        in_flight: bool = True,
        replay: ReplayBuffer | None = None,
    ) -> None:
        """gather: joins the items of all ranks; `list` where there is one. add_policy_rewards: adds rewards that read the
        policy's log-probabilities; `list` adds none. estimate_step_values: adds the step values of per-step credit. overlap:
        the engine generates while the learner works. in_flight: weights may be loaded in the middle of a completion."""
        self._plan, self._tasks = plan, tasks
        self._curriculum, self._collector = curriculum, collector
        self._draws = RankDraws(curriculum, tasks, rank=rank, ranks=ranks)
        self._rank, self._ranks = rank, ranks
        self._gather, self._add_policy_rewards = gather, add_policy_rewards
        self._estimate_step_values = estimate_step_values
        self._overlap, self._in_flight = overlap, in_flight
        self._started: dict[int, _StartedBatch] = {}
        self._ready: dict[int, RolloutBatch] = {}
        self._to_start: dict[int, list[Draw]] = {}
        self._next_draw = 0
        self.replay = replay or ReplayBuffer(None, groups_per_step=0, seed=0)

    @property
    def generator(self) -> Generator:
        """What holds the requests in flight."""
        return self._collector.generator

    def generate_and_score(self, step: int, *, version: int) -> RolloutBatch:
        """The batch of this step: drawn by the curriculum, generated, scored, filtered, its prefixes continued for step values.

        With staleness, batches beyond it are drawn too, and begun or generated. version: of the weights served.
        """
        for number, draws in self._to_start.items():
            self._start_again(number, draws, version)
        self._to_start = {}
        last = min(step + self._plan.max_staleness, self._plan.steps - 1)
        self._next_draw = max(self._next_draw, step)
        while self._next_draw <= last:
            self._start(self._next_draw, version)
            if not self._overlap:
                self._ready[self._next_draw] = self._finish(self._next_draw)
            self._next_draw += 1
        if self._overlap:
            self.generator.submit_waiting()
        return self._ready.pop(step) if step in self._ready else self._finish(step)

    @contextmanager
    def generating_meanwhile(self) -> Iterator[None]:
        """The batches that are begun go on while the body computes, where the engine can do that.

        If weights are not to be loaded in flight, they are generated to their end before the context ends.
        """
        if not self._overlap:
            yield
            return
        with self._collector.working():
            yield
        if not self._in_flight:
            self._collector.wait_for_all()

    def abandon(self) -> None:
        """Give up batches under way that will not be trained: the stage ends before its steps are done."""
        for number in self._started:
            self.generator.abort_unfinished_groups(number)
        self.generator.drain()
        self._started = {}

    @property
    def idle_s(self) -> float | None:
        """How long the engine had nothing to do in the last `generating_meanwhile`; None where it cannot work meanwhile."""
        return self._collector.idle_s if self._overlap else None

    def update_curriculum(
        self, batch: RolloutBatch, samples: Sequence[Sequence[Sample]]
    ) -> dict[str, float]:
        """Tell the curriculum of a batch. Collective: it hears of the groups of all ranks.

        samples: those of each group of this rank. Returns metrics.
        """
        collected = batch.collected
        effort = Effort(
            wanted=len(self._share()),
            tried=collected.tried,
            accepted=sum(draw.task_index is not None for draw in collected.draws),
            generated=collected.completion_tokens,
            used=tokens_reaching_a_gradient(collected.groups, samples),
            resamples=batch.resamples,
        )
        efforts = self._gather([effort])
        outcomes = self._gather(_outcomes(collected, samples))
        if self._plan.max_staleness == 0:
            # Replacements advance the sampler, so all ranks must agree how many there were. With staleness they
            # came from a fork, and `_start` has ended the batch's draws.
            self._draws.end_batch([effort.resamples for effort in efforts])
        self._curriculum.observe(sorted(outcomes, key=lambda outcome: outcome.index))
        metrics = effort_metrics(efforts) | self._curriculum.metrics()
        if self._plan.budget:
            metrics["budget"] = self._plan.budget(collected.number)
        return metrics

    def _share(self) -> range:
        """This rank's part of the tasks of a batch."""
        return range(self._rank, self._plan.groups_per_step, self._ranks)

    def state_dict(self) -> dict[str, Any]:
        """The curriculum's state is kept apart; this is the batches that are drawn and not trained.

        Of those that are still being generated the draws are kept: they are begun again, with the same ids and seeds.
        """
        started = {number: batch.first for number, batch in self._started.items()}
        return {
            "next_draw": self._next_draw,
            "replay": self.replay.state_dict(),
            "ready": [batch_state(batch) for _, batch in sorted(self._ready.items())],
            "started": {n: [list(draw) for draw in draws] for n, draws in started.items()},
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue where `state_dict` was taken. states: one of each rank there was then, which may be another number."""
        if not states:
            return
        self._next_draw = states[0]["next_draw"]
        self.replay.load_state_dict([state.get("replay", []) for state in states])
        rank, ranks = self._rank, self._ranks
        ready = []
        for parts in zip(*(state["ready"] for state in states), strict=True):
            ready.append(
                parts[rank] if len(parts) == ranks else part_of_rank(parts, rank, ranks)
            )
        batches = [load_batch(saved, self._task_of) for saved in ready]
        self._ready = {batch.collected.number: batch for batch in batches}
        for number in states[0]["started"]:
            draws = [Draw(*draw) for state in states for draw in state["started"][number]]
            self._to_start[number] = sorted(draws, key=lambda draw: draw.order)

    def _task_of(self, saved: dict[str, Any], number: int) -> Task:
        if saved["task_index"] is None:
            return Task(**saved["task"])
        return self._task(saved["task_index"], number)

    def _start(self, number: int, version: int) -> None:
        """Draw a batch and begin it."""
        first = self._draws.draw_batch(self._plan.groups_per_step)
        draws = self._draws
        if self._plan.max_staleness > 0:
            # later batches must not depend on how many tasks this one replaces
            draws = self._draws.fork()
            self._draws.end_batch([0])
        self._begin(number, first, draws, version)

    def _start_again(self, number: int, of_batch: Sequence[Draw], version: int) -> None:
        """Begin a batch that was drawn before the run was killed. of_batch: the draws of all ranks, in order."""
        first = of_batch[self._rank :: self._ranks]
        self._begin(number, first, self._draws.fork(of_batch), version)

    def _begin(
        self, number: int, first: Sequence[Draw], draws: RankDraws, version: int
    ) -> None:
        """Hand a batch to the collector. draws: where replacements of rejected groups come from."""
        plan = self._plan
        resample = None
        if plan.filter is not None:
            resample = Resample(
                accepts=partial(plan.filter, version=version),
                draw_replacements=lambda n: self._task_draws(
                    draws.draw_replacements(n), number
                ),
                max_gen_batches=plan.max_gen_batches,
                oversubmit=plan.oversubmit,
            )
        self._started[number] = _StartedBatch(list(first), draws)
        self._collector.start(number, self._task_draws(first, number), resample)

    def _finish(self, number: int) -> RolloutBatch:
        """Wait for a batch, and add what is made of its completions: follow-up tasks, rewards by the policy, step values."""
        collected = self._collector.wait(number)
        resamples = self._started.pop(number).draws.resamples
        collected = self._follow_up(collected)
        collected = replace(collected, groups=self._add_policy_rewards(collected.groups))
        cost = None
        if self._estimate_step_values is not None:
            groups, cost = self._estimate_step_values(collected.groups, number)
            collected = replace(collected, groups=groups)
        return RolloutBatch(collected=collected, value_cost=cost, resamples=resamples)

    def _follow_up(self, collected: CollectedBatch) -> CollectedBatch:
        """The batch with the groups of tasks that its completions give rise to."""
        if self._plan.follow_up is None:
            return collected
        tokens = collected.completion_tokens

        def sample(tasks: Sequence[Task]) -> list[Group]:
            nonlocal tokens
            draws = [TaskDraw(task=task, order=i) for i, task in enumerate(tasks)]
            self._collector.start(collected.number, draws)
            followed = self._collector.wait(collected.number)
            tokens += followed.completion_tokens
            return followed.groups

        groups = self._plan.follow_up(collected.groups, sample)
        new = groups[len(collected.draws) :]
        draws = [*collected.draws, *(TaskDraw(task=group.task) for group in new)]
        return replace(collected, groups=groups, draws=draws, completion_tokens=tokens)

    def _task_draws(self, draws: Sequence[Draw], number: int) -> list[TaskDraw]:
        return [
            TaskDraw(
                task=self._task(draw.task_index, number),
                task_index=draw.task_index,
                order=draw.order,
                occurrence=draw.occurrence,
            )
            for draw in draws
        ]

    def _task(self, index: int, number: int) -> Task:
        task = self._tasks[index]
        if self._plan.budget is None:
            return task
        return state_budget(task, self._plan.budget(number), self._plan.budget_text)


def _outcomes(collected: CollectedBatch, samples: Sequence[Sequence[Sample]]) -> list[Outcome]:
    """Of all groups of the task set. Credit is not asked about rejected ones: theirs are group-normalised advantages."""
    outcomes = [
        outcome(draw.task_index, group, credited)
        for draw, group, credited in zip(
            collected.draws, collected.groups, samples, strict=True
        )
        if draw.task_index is not None
    ]
    for i, (draw, group) in enumerate(
        zip(collected.rejected_draws, collected.rejected, strict=True)
    ):
        rejected = outcome(draw.task_index, group, group_samples(group))
        outcomes.append(replace(rejected, accepted=i in collected.surplus))
    return outcomes
