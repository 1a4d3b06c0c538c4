"""iTool small: two rounds of tree search and SimPO on hard requests, against any requests, and against more imitation.

    python recipes/papers/itool/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

All three continue from the same imitation. README.md has the numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main


def imitate(number: int) -> str:
    """In place of a round's preferences: as many updates of imitation on the round's tasks."""
    return (
        f"stages.prefer_{number}={{kind: sft, name: prefer_{number}, tasks: round_{number}, "
        "steps: 10, batch_size: 32, optim: {lr: 1e-5, betas: [0.9, 0.99], warmup_steps: 2}}"
    )


CELLS = {
    "hard requests": (),
    "any requests": ("stages.search_1.choose=random", "stages.search_2.choose=random"),
    "more imitation": (imitate(1), imitate(2)),
}
QUICK = (
    "stages.imitation.steps=40",
    "tasks.round_1.size=40",
    "tasks.round_2.size=40",
    "tasks.eval_set.size=32",
)
EVALS = {"imitation": "before", "round 1": "after_1", "round 2": "after_2"}


def right(stage: str, category: str = "") -> Callable[[CellRun], float]:
    """The fraction of held-out requests with the right reply, of a category or of all."""
    key = f"accuracy/{category}" if category else "accuracy"
    return lambda run: run.evals[stage][key]


MEASURES: dict[str, Callable[[CellRun], float]] = {
    **{f"right: {label}": right(stage) for label, stage in EVALS.items()},
    "calls: round 2": right("after_2", "call"),
    "no call: round 2": right("after_2", "no call"),
}

if __name__ == "__main__":
    recipe = Path(__file__).with_name("itool.yaml")
    study_main(str(__doc__), recipe, CELLS, MEASURES, quick=QUICK, first="search_1")
