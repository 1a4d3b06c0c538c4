"""Task samplers against the record of a run: what would each have drawn, had the tasks been as hard
as they were then?

Nothing is generated or trained: pass rates change as they did in the recorded run, whatever a
sampler draws. So a replay tells which sampler finds the groups that teach, and how soon, not what a
policy would have become."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rlcore.errors import RunError
from rlcore.plugin import Named
from rlcore.recipe.build import TaskSets, build_curriculum
from rlcore.recipe.load import load
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.plots import panels_svg
from rlcore.stages.rl import RlStage
from rlcore.types import Outcome, Task

WINDOW = 5
"""A task that was not answered near a step is given a group of its category from at most so many steps away, if there is one."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One group of the run."""

    step: int
    """Of the stage, from 0."""
    index: int
    rewards: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one sampler would have drawn."""

    sampler: str
    shares: dict[str, float]
    """Of each category, over all steps."""
    signal: float
    """Mean |advantage| of the groups drawn, normalised in each group."""
    mixed: float
    """Share of the groups with rewards that are not all equal: the others teach nothing."""
    tasks: int
    """Different tasks drawn."""
    over_time: dict[str, list[float]]
    """Share of each category at each step."""


class Record:
    """The groups of a run's first rl stage, by task and by category."""

    def __init__(self, folder: Path) -> None:
        run = RunFolder.of_run(folder)
        recipe = load(str(run.recipe))
        stages = [stage for stage in recipe.stages if isinstance(stage, RlStage)]
        if not stages:
            raise RunError(f"the run {folder} has no rl stage to replay")
        self.stage = stages[0]
        self.tasks = TaskSets(recipe.tasks, recipe.stages)[self.stage.tasks]
        name = self.stage.label
        steps = [row["step"] for row in read_rows(run.metrics) if row["stage"] == name]
        self.steps = len(steps)
        self._by_task: dict[int, list[Recorded]] = {}
        self._by_category: dict[str, list[Recorded]] = {}
        for number, step in enumerate(steps):
            for category, group in _groups(run.rollouts, step, number):
                self._by_task.setdefault(group.index, []).append(group)
                self._by_category.setdefault(category, []).append(group)
        if not self._by_category:
            raise RunError(f"the run {folder} has no scored rollouts of its rl stage to replay")

    def answer(self, task: Task, index: int, step: int, rng: random.Random) -> Outcome:
        """The task's own group recorded closest to the step, within the window; else one of its category, from around the step."""
        of_task = [
            group for group in self._by_task.get(index, ()) if abs(group.step - step) <= WINDOW
        ]
        if of_task:
            recorded = min(of_task, key=lambda group: abs(group.step - step))
        else:
            of_category = self._by_category.get(task.category) or [
                g for groups in self._by_category.values() for g in groups
            ]
            nearest = min(abs(group.step - step) for group in of_category)
            recorded = rng.choice(
                [
                    group
                    for group in of_category
                    if abs(group.step - step) <= max(WINDOW, nearest)
                ]
            )
        return Outcome(
            index=index,
            category=task.category,
            rewards=recorded.rewards,
            abs_advantage=mean_advantage(recorded.rewards),
        )


def replay(record: Record, sampler: Named, *, seed: int = 0, passes: int = 1) -> Replayed:
    """Let a sampler draw and observe for as many steps as the run had.

    passes: each recorded step stands for so many.
    """
    curriculum = build_curriculum(sampler, record.tasks, seed=seed)
    rng = random.Random(f"replay/{seed}")
    outcomes: list[list[Outcome]] = []
    for step in range(record.steps * passes):
        drawn = sorted(curriculum.draw(record.stage.groups_per_step))
        outcomes.append([record.answer(record.tasks[i], i, step // passes, rng) for i in drawn])
        curriculum.observe(outcomes[-1])
    every = [outcome for group in outcomes for outcome in group]
    counts = Counter(outcome.category for outcome in every)
    categories = sorted(counts)
    return Replayed(
        sampler=_label(sampler),
        shares={category: counts[category] / len(every) for category in categories},
        signal=statistics.fmean(outcome.abs_advantage for outcome in every),
        mixed=statistics.fmean(len(set(outcome.rewards)) > 1 for outcome in every),
        tasks=len({outcome.index for outcome in every}),
        over_time={
            category: [
                sum(o.category == category for o in group) / len(group) for group in outcomes
            ]
            for category in categories
        },
    )


def mean_advantage(rewards: Sequence[float]) -> float:
    """Mean |advantage| of a group under GRPO's normalisation."""
    if len(rewards) < 2 or min(rewards) == max(rewards):
        return 0.0
    mean, std = statistics.fmean(rewards), statistics.stdev(rewards)
    return statistics.fmean(abs(reward - mean) for reward in rewards) / std


def replay_svg(replays: Sequence[Replayed]) -> str:
    """Fractions of the categories over time, a panel per sampler."""
    panels = {}
    for result in replays:
        lines = {}
        for category, line in result.over_time.items():
            lines[category] = list(enumerate(_smooth(line)))
        panels[result.sampler] = lines
    return panels_svg(panels, x="step", y="fraction of the tasks", high=1.0)


def _groups(rollouts: Path, step: int, number: int) -> Iterator[tuple[str, Recorded]]:
    """The groups that all ranks wrote at one step, with their categories."""
    for path in sorted(rollouts.glob(f"{step:06d}*.jsonl")):
        for _, rows in groupby(read_rows(path), key=_group_key):
            answers = list(rows)
            rewards = tuple(row["value"] for row in answers if row["value"] is not None)
            if rewards and answers[0]["index"] is not None:
                # follow-up tasks are not drawn by the task sampler
                yield answers[0]["category"], Recorded(number, answers[0]["index"], rewards)


def _group_key(row: dict[str, Any]) -> int | None:
    if "index" not in row:
        raise RunError(
            "the rollouts of this run do not say which task they are of (`index`): it was made by an older version"
        )
    return row["index"]


def _label(named: Named) -> str:
    if isinstance(named, str):
        return named
    parts = [str(named["use"])]
    parts += [f"{key}={value}" for key, value in named.items() if key != "use"]
    return " ".join(parts)


def _smooth(line: Sequence[float], width: int = 5) -> list[float]:
    smooth = []
    for i in range(len(line)):
        first = max(0, i - width + 1)
        smooth.append(statistics.fmean(line[first : i + 1]))
    return smooth
