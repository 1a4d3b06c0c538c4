"""Stage `sft`: imitate the demonstrations of a task set. The same learner as RL, with advantage 1 on every completion token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from rlcore.credit.demonstrations import demonstration_sample
from rlcore.curriculum.uniform import Uniform
from rlcore.objective.presets import objective
from rlcore.recipe.optim_sections import OptimSection
from rlcore.run.metrics import learner_metrics
from rlcore.run.seeds import derive
from rlcore.run.stopwatch import Stopwatch
from rlcore.stages.base import TaskStage
from rlcore.types import Sample, Task

if TYPE_CHECKING:
    from rlcore.recipe.check import Checking
    from rlcore.run.session import Run


class SftStage(TaskStage):
    headline = ("loss", "entropy")

    steps: PositiveInt = Field(description="steps, each of one update")
    batch_size: PositiveInt = Field(
        128, description="demonstrations in a step, over all processes"
    )
    optim: OptimSection = Field(default_factory=lambda: OptimSection(lr=1e-5))

    @property
    def imitates(self) -> bool:
        return True

    def check(self, context: Checking) -> list[str]:
        total = self.steps * self.batch_size
        fact = (
            f"{self.label}: {self.steps} steps x {self.batch_size} demonstrations = {total:,}"
        )
        return [*super().check(context), fact]

    def run(self, run: Run) -> None:
        run_sft(run, self)


def run_sft(run: Run, stage: SftStage) -> None:
    tasks = run.tasks(stage.tasks)
    curriculum = Uniform(tasks, seed=derive(run.recipe.seed, "sft", run.cursor.stage))
    learner = run.learner(stage, objective("sft"))
    run.resume_stage(learner, curriculum)
    with run.tracker.stage(stage, done=run.cursor.stage_step):
        while run.cursor.stage_step < stage.steps:
            watch = Stopwatch()
            positions = run.my_share(curriculum.draw(stage.batch_size))
            report = learner.update(
                [demonstrate(run, tasks[position]) for position in positions]
            )
            watch.lap("learn")
            run.end_step(learner_metrics(report) | watch.times(), learner, curriculum)
    run.end_stage(learner, curriculum)


def demonstrate(run: Run, task: Task) -> Sample:
    """The task's demonstration as a sample. That it fits was checked when the run began (`run.usable`)."""
    prompt_ids = run.encoder.encode(task)
    completion_ids = run.encoder.encode_demonstration(task)
    return demonstration_sample(task.id, prompt_ids, completion_ids)
