"""Stage `sample`: answer a task set with the present policy, score the answers and keep them; nothing is learned.

The rows go to `samples/<stage>/` of the run folder, for `offline` and `prefer` stages of this or another run. When a run is
resumed after the stage they are not drawn again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from rlcore.credit.demonstrations import last_words
from rlcore.recipe.build import build_environments, build_sampling, build_scorer
from rlcore.recipe.build_credit import build_step_values
from rlcore.recipe.credit_sections import StepValuesSection
from rlcore.rollout.open_group import TaskDraw
from rlcore.run.environment import build_episodes
from rlcore.run.metrics import group_facts, refuse_unscored, rollout_metrics, rollout_rows
from rlcore.run.policy_rewards import policy_scorer
from rlcore.run.seeds import derive
from rlcore.run.step_values import step_metrics, step_rows, step_values
from rlcore.scoring.forms import ENVIRONMENT
from rlcore.scoring.scorer import Scorer
from rlcore.stages.base import GeneratingStage, Stage, equal_samples
from rlcore.stages.sft import demonstrate, encoder_with_tools
from rlcore.types import Group, Rollout, Task

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.recipe.schema import Recipe
    from rlcore.rollout.prompt import PromptEncoder
    from rlcore.run.session import Run

ROUND = 4
"""Answers of a round, in multiples of what the engine writes at the same time; rows are on disk after each round."""


class SampleStage(GeneratingStage):
    headline = ("reward/mean", "completions/length/mean")
    trains = False
    writes_samples = True
    files = "samples"

    limit: PositiveInt | None = Field(None, description="sample only for this many first tasks")
    num_samples: PositiveInt = Field(8, description="completions per task")
    demonstrations: bool = Field(
        False, description="score and keep the tasks' demonstrations too, one more row each"
    )
    steps: StepValuesSection | None = Field(
        None, description="estimate the value of each reasoning step and keep it"
    )

    def problems(self, recipe: Recipe, before: Sequence[Stage]) -> Iterator[str]:
        yield from super().problems(recipe, before)
        yield from equal_samples(self.num_samples, self.sampling)
        if self.env is not None and self.steps is not None:
            yield "steps values the reasoning steps of single-turn rollouts: leave out env"
        if self.demonstrations and any(reward.use == ENVIRONMENT for reward in self.rewards):
            yield "demonstrations are not shown to an environment: leave them out, or take other rewards"

    def check(self, context: Checking) -> list[str]:
        facts = super().check(context)
        if self.steps:
            with context.at("steps"):
                build_step_values(self.steps, self, context.no_engine, str)
        return facts

    def run(self, run: Run) -> None:
        run_sample(run, self)


def run_sample(run: Run, stage: SampleStage) -> None:
    started = time.perf_counter()
    name = stage.label
    tasks = run.tasks(stage.tasks)
    num_tasks = min(len(tasks), stage.limit or len(tasks))
    seed = derive(run.recipe.seed, "sample", run.cursor.stage)
    if run.accelerator.is_main_process:
        run.folder.new_sample(name)
    run.accelerator.wait_for_everyone()
    run.publish(run.cursor.step)

    facts, costs = [], []
    with (
        build_scorer(stage) as scorer,
        build_environments(stage.env) as pool,
        run.tracker.wait(f"sampling {num_tasks} tasks"),
    ):
        collector = run.collector(
            scorer,
            build_sampling(stage.sampling),
            group_size=stage.num_samples,
            seed_of_batch=lambda batch: seed,
            episodes=build_episodes(run, stage, pool),
        )
        add_policy_rewards = policy_scorer(run, stage)
        estimate = step_values(run, stage.steps, stage, collector, seed=seed)
        for start, positions in rounds(run, stage, num_tasks):
            draws = [
                TaskDraw(task=tasks[position], task_index=position, order=position)
                for position in positions
            ]
            collector.start(start, draws)
            groups = add_policy_rewards(collector.wait(start).groups)
            if estimate:
                groups, cost = estimate(groups, start)
                costs.append(cost)
            placed = zip(positions, groups, [True] * len(groups), strict=True)
            rows = list(rollout_rows(placed, step_rows(groups)))
            if stage.demonstrations:
                chosen = {draw.task_index: draw.task for draw in draws}
                rows += demonstration_rows(run, stage, chosen, scorer)
            run.folder.append_sample(name, run.accelerator.process_index, rows)
            facts += run.gather([group_facts(group) for group in groups])
            refuse_unscored(facts)
    run.accelerator.wait_for_everyone()

    row = {
        "stage": name,
        "step": run.cursor.step,
        "tasks": num_tasks,
        "completions": num_tasks * stage.num_samples,
        **rollout_metrics(facts),
    }
    if estimate:
        row |= step_metrics(run.gather(costs), written=row["tokens/completion"])
    run.tracker.sampled(stage, row | {"time/total": time.perf_counter() - started})
    run.end_stage()


def rounds(run: Run, stage: SampleStage, num_tasks: int) -> Iterator[tuple[int, list[int]]]:
    """(number, this rank's positions) of each round; rows are on disk after each."""
    tasks_of_rank = max(1, ROUND * run.recipe.engine.max_sequences // stage.num_samples)
    size = tasks_of_rank * run.accelerator.num_processes
    for start in range(0, num_tasks, size):
        yield start, run.my_share(range(start, min(start + size, num_tasks)))


def demonstration_rows(
    run: Run, stage: SampleStage, tasks: Mapping[int, Task], scorer: Scorer
) -> Iterator[dict[str, Any]]:
    """A row for the demonstration of each task that has one: scored like a completion, with `logprobs: null`. tasks: by position."""
    encoder = encoder_with_tools(run, stage.env)
    shown = {
        task.id: (place, task, _demonstration(encoder, task))
        for place, task in tasks.items()
        if task.demonstration is not None
    }
    verdicts = scorer.score([(task, [rollout]) for _, task, rollout in shown.values()])
    placed = [
        (place, Group(task=task, rollouts=[rollout], verdicts=own), True)
        for (place, task, rollout), own in zip(shown.values(), verdicts, strict=True)
    ]
    for row in rollout_rows(placed):
        yield row | {"logprobs": None, "versions": []}


def _demonstration(encoder: PromptEncoder, task: Task) -> Rollout:
    sample = demonstrate(encoder, task)
    return Rollout.from_tokens(
        id=f"{task.id}#demonstration",
        task_id=task.id,
        token_ids=sample.token_ids,
        mask=sample.mask,
        logprobs=[0.0] * len(sample.mask),
        text=last_words(task.demonstration),
        finish="stop",
        version=0,
    )
