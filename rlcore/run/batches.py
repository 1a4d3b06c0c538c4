"""Rollout batches in the order in which they are drawn: from the curriculum's draw to scored groups, and back to the curriculum.

With `max_staleness: n` n batches are generated ahead of the one that is being trained: batch b is drawn after the curriculum
has observed the batches up to b - 1 - n, and trained in its turn. No token is older than n versions. Each batch is generated
whole before the next update, so this has the order of asynchronous training without its overlap: it is for studying
staleness, and saves no time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from rlcore.credit.estimator import Cost
from rlcore.credit.group import group_samples, outcome
from rlcore.curriculum.filter import Filter
from rlcore.curriculum.length_budget import state_budget
from rlcore.curriculum.rank_draws import Draw, RankDraws
from rlcore.curriculum.task_sampler import TaskSampler
from rlcore.rollout.collector import CollectedBatch, Collector, Resample
from rlcore.rollout.generator import Generator
from rlcore.rollout.open_group import TaskDraw
from rlcore.rollout.state import group_state, load_group, task_state
from rlcore.run.allocator import give_back_freed_memory
from rlcore.run.metrics import Effort, effort_metrics, tokens_reaching_a_gradient
from rlcore.types import Group, Outcome, Rollout, Sample, Task

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


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutBatch:
    """This rank's part of one batch, ready to be learned from."""

    collected: CollectedBatch
    """`groups` are those to learn from; groups of follow-up tasks come last and have no index in the task set."""
    value_cost: Cost | None
    """Of step values, where the stage estimates them."""
    resamples: int
    """Draws in place of rejected groups."""

    @property
    def groups(self) -> list[Group]:
        return self.collected.groups

    @property
    def all_groups(self) -> list[Group]:
        """Rejected ones too."""
        return self.collected.groups + self.collected.rejected

    @property
    def rollouts(self) -> list[Rollout]:
        """Those to learn from."""
        return [rollout for group in self.groups for rollout in group.rollouts]

    def placed(self) -> Iterator[tuple[int | None, Group, bool]]:
        """(index in the task set, group, accepted) of every group."""
        batch = self.collected
        for draw, group in zip(batch.draws, batch.groups, strict=True):
            yield draw.task_index, group, True
        for draw, group in zip(batch.rejected_draws, batch.rejected, strict=True):
            yield draw.task_index, group, False


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
    ) -> None:
        """gather: joins the items of all ranks; `list` where there is one. add_policy_rewards: adds rewards that read the
        policy's log-probabilities; `list` adds none. estimate_step_values: adds the step values of per-step credit."""
        self._plan, self._tasks = plan, tasks
        self._curriculum, self._collector = curriculum, collector
        self._draws = RankDraws(curriculum, tasks, rank=rank, ranks=ranks)
        self._rank, self._ranks = rank, ranks
        self._gather, self._add_policy_rewards = gather, add_policy_rewards
        self._estimate_step_values = estimate_step_values
        self._ready: dict[int, RolloutBatch] = {}
        self._next_draw = 0

    @property
    def generator(self) -> Generator:
        """What holds the requests in flight."""
        return self._collector.generator

    def generate_and_score(self, step: int, *, version: int) -> RolloutBatch:
        """The batch of this step: drawn by the curriculum, generated, scored, filtered, its prefixes continued for step values.

        With staleness, batches beyond it are generated too. version: of the weights served.
        """
        last = min(step + self._plan.max_staleness, self._plan.steps - 1)
        self._next_draw = max(self._next_draw, step)
        while self._next_draw <= last:
            self._ready[self._next_draw] = self._generate(self._next_draw, version)
            self._next_draw += 1
        give_back_freed_memory()
        return self._ready.pop(step)

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
            # came from a fork, and `_generate` has ended the batch's draws.
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
        """The curriculum's state is kept apart; this is the batches that are generated and not trained."""
        return {
            "next_draw": self._next_draw,
            "ready": [_batch_state(batch) for _, batch in sorted(self._ready.items())],
        }

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue where `state_dict` was taken. states: one of each rank there was then, which may be another number."""
        if not states:
            return
        self._next_draw = states[0]["next_draw"]
        rank, ranks = self._rank, self._ranks
        ready = []
        for parts in zip(*(state["ready"] for state in states), strict=True):
            ready.append(parts[rank] if len(parts) == ranks else _part(parts, rank, ranks))
        batches = [_load_batch(saved, self._task_of) for saved in ready]
        self._ready = {batch.collected.number: batch for batch in batches}

    def _task_of(self, saved: dict[str, Any], number: int) -> Task:
        if saved["task_index"] is None:
            return Task(**saved["task"])
        return self._task(saved["task_index"], number)

    def _generate(self, number: int, version: int) -> RolloutBatch:
        plan = self._plan
        draws = self._draws
        first = self._task_draws(draws.draw_batch(plan.groups_per_step), number)
        resample = None
        if plan.max_staleness > 0:
            # later batches must not depend on how many tasks this one replaces
            draws = draws.fork()
            self._draws.end_batch([0])
        if plan.filter is not None:
            resample = Resample(
                accepts=partial(plan.filter, version=version),
                draw_replacements=lambda n: self._task_draws(
                    draws.draw_replacements(n), number
                ),
                max_gen_batches=plan.max_gen_batches,
                oversubmit=plan.oversubmit,
            )
        self._collector.start(number, first, resample)
        collected = self._collector.wait(number)
        resamples = draws.resamples
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


def _batch_state(batch: RolloutBatch) -> dict[str, Any]:
    collected = batch.collected

    def pairs(draws: Sequence[TaskDraw], groups: Sequence[Group]) -> list[dict[str, Any]]:
        states = []
        for draw, group in zip(draws, groups, strict=True):
            task = task_state(draw.task) if draw.task_index is None else None
            draw_state = {
                "task_index": draw.task_index,
                "order": draw.order,
                "occurrence": draw.occurrence,
                "task": task,
            }
            states.append({"draw": draw_state, "group": group_state(group)})
        return states

    return {
        "number": collected.number,
        "groups": pairs(collected.draws, collected.groups),
        "rejected": pairs(collected.rejected_draws, collected.rejected),
        "surplus": sorted(collected.surplus),
        "tried": collected.tried,
        "seconds": [collected.rollout_s, collected.reward_s],
        "tokens": [collected.prompt_tokens, collected.completion_tokens],
        "value_cost": None if batch.value_cost is None else asdict(batch.value_cost),
        "resamples": batch.resamples,
    }


def _part(parts: Sequence[dict[str, Any]], rank: int, ranks: int) -> dict[str, Any]:
    """One rank's part of a batch that another number of ranks has generated; what it cost stays with the first rank."""

    def groups(key: str) -> list[dict[str, Any]]:
        joined = [pair for part in parts for pair in part[key]]
        return sorted(joined, key=lambda pair: pair["draw"]["order"])[rank::ranks]

    first = rank == 0
    return {
        "number": parts[0]["number"],
        "groups": groups("groups"),
        "rejected": groups("rejected"),
        "surplus": [],
        "tried": sum(part["tried"] for part in parts) if first else 0,
        "seconds": parts[0]["seconds"],
        "tokens": [sum(part["tokens"][i] for part in parts) if first else 0 for i in range(2)],
        "value_cost": parts[0]["value_cost"] if first else None,
        "resamples": 0,
    }


def _load_batch(
    state: dict[str, Any], task_of: Callable[[dict[str, Any], int], Task]
) -> RolloutBatch:
    def load(saved: Sequence[dict[str, Any]]) -> tuple[list[TaskDraw], list[Group]]:
        draws, groups = [], []
        for pair in saved:
            task = task_of(pair["draw"], state["number"])
            draws.append(TaskDraw(**pair["draw"] | {"task": task}))
            groups.append(load_group(pair["group"], task))
        return draws, groups

    draws, groups = load(state["groups"])
    rejected_draws, rejected = load(state["rejected"])
    collected = CollectedBatch(
        number=state["number"],
        groups=groups,
        draws=draws,
        rejected=rejected,
        rejected_draws=rejected_draws,
        surplus=set(state["surplus"]),
        tried=state["tried"],
        rollout_s=state["seconds"][0],
        reward_s=state["seconds"][1],
        prompt_tokens=state["tokens"][0],
        completion_tokens=state["tokens"][1],
    )
    cost = state["value_cost"]
    return RolloutBatch(
        collected=collected,
        value_cost=None if cost is None else Cost(**cost),
        resamples=state["resamples"],
    )
