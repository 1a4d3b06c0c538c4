"""How long a learner waits for a checkpoint: for the disk, or for a copy in memory that a thread writes (`run.checkpoint_async`)."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from accelerate import Accelerator

from rlcore.bench.measure import Seconds, Stopwatch, circumstances
from rlcore.bench.workload import Shape, make_model, make_samples
from rlcore.learner.policy import Policy, load_policy
from rlcore.learner.update import Learner
from rlcore.measures.intervals import student_95
from rlcore.objective import objective
from rlcore.recipe.schema import RunSection
from rlcore.run.checkpoint import Cursor
from rlcore.run.folder import RunFolder
from rlcore.run.saver import Saver

SIDES = ("none", "plain", "thread")
"""What a step begins with: no checkpoint, one that is waited for, one that a thread writes while the step goes on."""


class Step(NamedTuple):
    """One step, and the checkpoint before it."""

    stall: Seconds
    """Of the learner's thread, until the checkpoint is on disk or copied. `cpu` is that of the process."""
    update: Seconds


def bench_checkpoint(
    *,
    model: str = "tiny",
    hidden_size: int | None = None,
    layers: int | None = None,
    prompts: int = 8,
    group_size: int = 8,
    prompt_tokens: int = 16,
    answer_min: int = 16,
    answer_max: int = 64,
    micro_batch_tokens: int = 4096,
    repeats: int = 5,
) -> dict[str, Any]:
    """Seconds that a learner waits for a checkpoint of each kind, in turn in one process; the first round is not counted.

    A step is the learner's part of it: forward, backward and update on random completions. With
    generation it would be longer, and the shares smaller.

    ours, theirs: stall of the thread and of the plain side, seconds before the step can begin. first:
    that of the thread's first copy, into new memory. share: stall / step without a checkpoint. slowdown:
    (stall + step) / step without a checkpoint - 1, which also counts what the writing thread takes
    from the step beside it. Medians, and 95% t-intervals of the mean over the rounds.
    """
    shape = Shape(
        prompts=prompts,
        group_size=group_size,
        prompt_tokens=prompt_tokens,
        answer_min=answer_min,
        answer_max=answer_max,
    ).changed()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = make_model(folder / "model", model, hidden_size=hidden_size, layers=layers)
        accelerator = Accelerator(cpu=not torch.cuda.is_available())
        policy = load_policy(path=path, device=accelerator.device)
        learner = Learner(
            policy,
            objective("grpo"),
            accelerator=accelerator,
            lr=1e-6,
            total_updates=3 * (repeats + 1),
            micro_batch_tokens=micro_batch_tokens,
        )
        savers = _savers(folder, policy, accelerator)
        steps = _rounds(learner, savers, shape, repeats)
        size = sum(f.stat().st_size for f in (folder / "plain").rglob("*") if f.is_file())
    return {
        "bench": "checkpoint",
        "against": "plain",
        **_compared(steps),
        "gigabytes": round(size / 1e9, 3),
        "shape": {key: getattr(shape, key) for key in shape.__slots__},
        "settings": {"model": model, "parameters": policy.num_parameters},
        **circumstances(),
    }


def _savers(folder: Path, policy: Policy, accelerator: Accelerator) -> dict[str, Saver]:
    savers = {}
    for side in SIDES[1:]:
        section = RunSection(checkpoint_async=side == "thread", keep_checkpoints=1)
        savers[side] = Saver(section, RunFolder(folder / side), policy, accelerator)
    return savers


def _rounds(
    learner: Learner, savers: dict[str, Saver], shape: Shape, repeats: int
) -> dict[str, list[Step]]:
    """Steps of each side, one of each a round, in the other order every second time; the first round is one more."""
    samples = make_samples(shape)
    learner.update(samples)  # makes the states of the optimiser
    steps: dict[str, list[Step]] = {side: [] for side in SIDES}
    for number in range(repeats + 1):
        for side in SIDES if number % 2 else reversed(SIDES):
            watch = Stopwatch()
            if side in savers:
                state = {"learner": learner.state_dict(), "rng": torch.get_rng_state()}
                savers[side].save(Cursor(step=number), state, None, wait=False)
            stall = watch.read()
            watch = Stopwatch()
            learner.update(samples)
            update = watch.read()
            if side in savers:
                savers[side].settle()  # what is left must not slow the next side
            steps[side].append(Step(stall, update))
    return steps


def _compared(steps: dict[str, list[Step]]) -> dict[str, Any]:
    first = steps["thread"][0].stall.wall
    steps = {side: of_side[1:] for side, of_side in steps.items()}
    alone = steps["none"]
    stalls = {side: [step.stall.wall for step in steps[side]] for side in SIDES[1:]}
    ratios = [a / b for a, b in zip(stalls["plain"], stalls["thread"], strict=True)]
    result: dict[str, Any] = {
        "step": round(statistics.median(step.update.wall for step in alone), 3),
        "ours": round(statistics.median(stalls["thread"]), 4),
        "theirs": round(statistics.median(stalls["plain"]), 4),
        "ratio": round(statistics.median(ratios), 2),
        "first": round(first, 4),
        "spread": [round(min(ratios), 2), round(max(ratios), 2)],
        "repeats": len(alone),
    }
    for side in SIDES[1:]:
        pairs = list(zip(steps[side], alone, strict=True))
        result[side] = {
            "share": _summary([step.stall.wall / base.update.wall for step, base in pairs]),
            "share_cpu": _summary([step.stall.cpu / base.update.cpu for step, base in pairs]),
            "slowdown": _summary(
                [
                    (step.stall.wall + step.update.wall) / base.update.wall - 1
                    for step, base in pairs
                ]
            ),
        }
    return result


def _summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, and the 95% t-interval of the mean where there are two values or more."""
    summary: dict[str, Any] = {"median": round(statistics.median(values), 4)}
    if len(values) > 1:
        mean = statistics.fmean(values)
        half = student_95(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
        summary["interval"] = [round(mean - half, 4), round(mean + half, 4)]
    return summary
