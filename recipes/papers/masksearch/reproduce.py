"""MaskSearch small: RL on blanks to fill in by search, with a curriculum over their number, without one, and with a penalty on lists.

    python recipes/papers/masksearch/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

All three continue from the same imitation of a teacher that often gives up. README.md has the numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main

PENALISED = "stages.rl.env={use: facts, judged: penalised_recall, format_weight: 0.1, workers: 2}"
CELLS = {
    "curriculum": (),
    "all masks from the start": ("stages.rl.curriculum=uniform",),
    "curriculum, penalised recall": (PENALISED,),
}
QUICK = (
    "stages.sft.steps=40",
    "stages.rl.steps=2",
    "stages.rl.groups_per_step=4",
    "tasks.eval_set.size=32",
)


def accuracy(when: str, masks: int) -> Callable[[CellRun], float]:
    """The fraction of held-out tasks with so many masks that are filled in exactly."""
    category = "1-hops" if masks == 1 else f"1-hops-{masks}-blanks"
    return lambda run: run.evals[when][f"accuracy/{category}"]


MEASURES: dict[str, Callable[[CellRun], float]] = {}
for masks in (1, 2, 3, 4):
    for when in ("before", "after"):
        MEASURES[f"{masks} masks: {when}"] = accuracy(when, masks)
MEASURES["all: before"] = lambda run: run.accuracy["before"]
MEASURES["all: after"] = lambda run: run.accuracy["after"]

if __name__ == "__main__":
    recipe = Path(__file__).with_name("masks.yaml")
    study_main(str(__doc__), recipe, CELLS, MEASURES, quick=QUICK)
