"""PretrainZero small: which spans a model masks while it learns to guess them, with and without the
zero-accuracy guard, and what it learns of as many spans that are hidden by chance.

    python recipes/papers/pretrain_zero/reproduce.py [--quick] [--seeds 3] [--json | --table]

The same policy chooses masks and guesses them, both in one step. README.md has the numbers.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlcore.analysis.study import CellRun, study_main
from rlcore.plugin import import_file
from rlcore.run.folder import read_rows

TEXTS = import_file(Path(__file__).with_name("texts.py"))
CELLS = {
    "guard": (),
    "no guard": ("stages.rl.follow_up.guard=false",),
    "spans by chance": (
        "stages.rl.tasks=drawn",
        "stages.rl.follow_up=null",
        "stages.rl.groups_per_step=64",
    ),
}
STEPS = (1, 10, 20, 40)


def near(run: CellRun, step: int) -> Iterator[dict[str, Any]]:
    """The rollouts of five steps around `step`, counted from the start of RL."""
    before_stage = min(row["step"] for row in run.rows) - 1
    last_step = max(row["step"] for row in run.rows) - before_stage
    for number in range(max(1, step - 2), min(last_step, step + 2) + 1):
        yield from read_rows(run.folder / f"rollouts/{before_stage + number:06d}.jsonl")


def frac_masks(kind: str, step: int) -> Callable[[CellRun], float | None]:
    """The fraction of the masks around `step` that hide a span of this kind; None where the policy masks nothing."""

    def measure(run: CellRun) -> float | None:
        kinds = Counter(masked_kind(row) for row in near(run, step) if row["category"] == "mask")
        return kinds[kind] / kinds.total() if kinds else None

    return measure


def guessed(step: int) -> Callable[[CellRun], float | None]:
    """The fraction of the guesses of inferable spans around `step` that are right."""

    def measure(run: CellRun) -> float | None:
        right = [row["value"] for row in near(run, step) if "=[MASK] " in row["prompt"]]
        return statistics.fmean(right) if right else None

    return measure


def masked_kind(rollout: dict[str, Any]) -> str:
    """The kind of span that a completion masks; "other" for any other span or none."""
    span = rollout["text"].removeprefix("<m>").partition("</m>")[0]
    text = rollout["prompt"].removesuffix("!")
    for kind in TEXTS.KINDS:
        if span == TEXTS.span_of(text, kind):
            return kind
    return "other"


def accuracy(stage: str) -> Callable[[CellRun], float]:
    return lambda run: run.accuracy[stage]


MEASURES: dict[str, Callable[[CellRun], float | None]] = {}
for step in STEPS:
    for kind in (*TEXTS.KINDS, "other"):
        MEASURES[f"step {step}: masks that are {kind}"] = frac_masks(kind, step)
for step in STEPS:
    MEASURES[f"step {step}: inferable spans guessed"] = guessed(step)
for kind in TEXTS.KINDS:
    for when in ("before", "after"):
        MEASURES[f"guesses of {kind}, {when}"] = accuracy(f"{kind}_{when}")

if __name__ == "__main__":
    study_main(str(__doc__), Path(__file__).with_name("blanks.yaml"), CELLS, MEASURES)
