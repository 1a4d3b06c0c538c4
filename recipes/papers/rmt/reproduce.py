"""Reinforcement mid-training small: next tokens with and without the next-token term, by next-token
training alone, and without the curriculum or the falling budget.

    python recipes/papers/rmt/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

All cells continue from the same cold start with the same texts in each step. README.md has the
numbers."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main

BINS = ("easy", "medium", "hard")
ALONE = (
    "stages.rl={kind: sft, name: rl, tasks: texts, steps: 50, batch_size: 18, "
    "optim: {lr: 3e-4, betas: [0.9, 0.99], warmup_steps: 3}}"
)
CELLS = {
    "RL and next-token term": (),
    "RL alone": ("stages.rl.objective=grpo",),
    "next-token training alone": (ALONE,),
    "no curriculum": ("stages.rl.curriculum=uniform",),
    "last budget from the start": ("stages.rl.budget={use: fixed, tokens: 14}",),
}


def accuracy(stage: str) -> Callable[[CellRun], float]:
    return lambda run: run.accuracy[stage]


def length(when: str) -> Callable[[CellRun], float]:
    """Mean tokens of a completion on held-out tasks that state the last budget."""
    return lambda run: statistics.fmean(run.length[f"{name}_thought_{when}"] for name in BINS)


MEASURES: dict[str, Callable[[CellRun], float]] = {}
for name in BINS:
    for when in ("before", "after"):
        MEASURES[f"{name}, plain: {when}"] = accuracy(f"{name}_{when}")
        MEASURES[f"{name}, with a thought: {when}"] = accuracy(f"{name}_thought_{when}")
for when in ("before", "after"):
    MEASURES[f"tokens of a completion, {when} (last budget 14)"] = length(when)

if __name__ == "__main__":
    study_main(str(__doc__), Path(__file__).with_name("rmt.yaml"), CELLS, MEASURES)
