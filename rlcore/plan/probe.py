"""A short measurement on this machine: some groups of the recipe's own tasks, scored by its rewards, and one micro-batch."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from rlcore.errors import RecipeError
from rlcore.learner.update import Learner
from rlcore.plan.plan import stage_objective
from rlcore.recipe.build import build_sampling, build_scorer
from rlcore.recipe.check import check
from rlcore.recipe.schema import Recipe
from rlcore.rollout.collector import numbered
from rlcore.run.driver import open_run
from rlcore.run.folder import RunFolder
from rlcore.run.seeds import derive
from rlcore.run.session import Run
from rlcore.run.tracking import Tracker
from rlcore.terminal import SafeConsole
from rlcore.types import Group, Sample, Task

SECONDS = 20.0
"""Time for generation and learning together, without the start of model and engine and a first call of each."""


@dataclass(frozen=True)
class Measured:
    """Speeds of one process of this machine, in tokens a second, and what its groups were like."""

    generated: float
    """Completion tokens; scoring runs beside it."""
    learned: float
    """Tokens that the model reads forward and backward."""
    publish_s: float
    prompt: float
    completion: float
    """Mean tokens of a prompt and of a completion."""
    groups: int
    """Groups with at least two scored completions."""
    equal: int
    """Of these, those whose rewards are all equal."""


def rl_stage(recipe: Recipe) -> Any:
    """The first stage that learns from its own completions. Raises `RecipeError` where there is none."""
    for stage in recipe.stages:
        if hasattr(stage, "groups_per_step"):
            return stage
    raise RecipeError("only rl stages generate and learn, and this recipe has none to measure")


def probe(recipe: Recipe, *, ranks: int, seconds: float = SECONDS) -> Measured:
    """ranks: processes of the run that is planned, whose share of a step is measured here."""
    stage = rl_stage(recipe)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch) / "probe")
        tracker = Tracker(folder, accelerator, SafeConsole(quiet=True))
        tasks: dict[str, Sequence[Task]] = {}
        check(recipe, tasks)
        folder.start(recipe, resume=False, overwrite=False)
        run = open_run(recipe, folder, accelerator, tracker, tasks)
        try:
            return _measure(run, stage, ranks, seconds)
        finally:
            run.close()
            folder.release()


def _measure(run: Run, stage: Any, ranks: int, seconds: float) -> Measured:
    objective = stage_objective(stage)
    assert objective is not None
    learner = run.learner(stage, objective)
    run.publish(0)
    groups, tokens, generate_s = _generate(run, stage, ranks, seconds / 2)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    samples = [_sample(rollout) for rollout in rollouts]
    learned = _learn(learner, samples, seconds / 2)
    publish_s = run.publish(1, rollouts=rollouts).seconds
    scored = [[v.value for v in group.verdicts if v.value is not None] for group in groups]
    comparable = [values for values in scored if len(values) > 1]
    return Measured(
        generated=tokens / generate_s,
        learned=learned,
        publish_s=publish_s,
        prompt=sum(r.mask.count(False) for r in rollouts) / len(rollouts),
        completion=sum(r.mask.count(True) for r in rollouts) / len(rollouts),
        groups=len(comparable),
        equal=sum(len(set(values)) == 1 for values in comparable),
    )


def _generate(
    run: Run, stage: Any, ranks: int, seconds: float
) -> tuple[list[Group], int, float]:
    """Groups of the stage's tasks until the time is over, their completion tokens, and seconds; the first call does not count."""
    tasks = run.tasks(stage.tasks)
    share = max(1, -(-stage.groups_per_step // ranks))
    groups: list[Group] = []
    tokens = 0
    spent = 0.0
    with build_scorer(stage) as scorer:
        collector = run.collector(
            scorer,
            build_sampling(stage.sampling, keep_support=True),
            group_size=stage.group_size,
            seed_of_batch=partial(derive, run.recipe.seed),
        )
        first = 0
        number = 0
        while spent < seconds:
            # a first, small batch pays for what happens once
            size = share if number else 1
            chosen = [tasks[(first + i) % len(tasks)] for i in range(size)]
            began = time.perf_counter()
            collector.start(number, numbered(chosen))
            batch = collector.wait(number)
            if number:
                spent += time.perf_counter() - began
                tokens += batch.completion_tokens
                groups += batch.groups
            first += size
            number += 1
    return groups, tokens, spent


def _learn(learner: Learner, samples: list[Sample], seconds: float) -> float:
    """Tokens a second of forward and backward passes over micro-batches of the samples; the first does not count."""
    tokens = 0
    spent = 0.0
    number = 0
    while spent < seconds / 2:
        part, read = _fill(samples, learner.micro_batch_tokens)
        began = time.perf_counter()
        learner.accumulate(part)
        if number:
            spent += time.perf_counter() - began
            tokens += read
        number += 1
    return tokens / spent


def _fill(samples: list[Sample], limit: int) -> tuple[list[Sample], int]:
    """The first samples that fill a micro-batch, and their tokens, each sample's own."""
    part: list[Sample] = []
    total = 0
    for sample in samples:
        if part and total + len(sample.token_ids) > limit:
            break
        part.append(sample)
        total += len(sample.token_ids)
    return part, total


def _sample(rollout: Any) -> Sample:
    """A sample that costs what training on the rollout costs: the advantage has no effect on that."""
    return Sample(
        id=rollout.id,
        token_ids=rollout.token_ids,
        mask=rollout.mask,
        advantages=[1.0] * len(rollout.token_ids),
    )
