"""The stability gap: what a model loses when its data change, and what replay and a smaller subset do about it.

    python recipes/papers/stability_gap/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

Depth is how far accuracy on the old skills falls below its start, and steps are those until it is back
(none: not within the stage).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main
from rlcore.analysis.study_results import study_table
from rlcore.measures.stability_gap import StabilityGap, gap_from_log
from rlcore.run.folder import read_rows

OLD = ("copy", "largest", "count", "next")
SHIFT = 1
"""Place of the stage among those of a cell's run, which begins with the eval stage `before`."""


def replay(share: float) -> str:
    """The new skill, and `share` of each batch from the old ones in equal parts."""
    weights = {"sort": 1 - share, **dict.fromkeys(OLD, share / len(OLD))}
    return f"stages.shift.curriculum={json.dumps({'use': 'phases', 'phases': [{'weights': weights}]})}"


SUBSET = "stages.shift.tasks=subset"
CELLS = {
    "new data once": (),
    "a quarter, four epochs": (SUBSET,),
    "replay 30%": (replay(0.3),),
    "a quarter, replay 30%": (SUBSET, replay(0.3)),
}


def old_gap(run: CellRun) -> StabilityGap:
    return gap_from_log(read_rows(run.folder / "eval.jsonl"), "old", stage_index=SHIFT)


def after(eval_set: str) -> Callable[[CellRun], float]:
    def accuracy(run: CellRun) -> float:
        rows = read_rows(run.folder / "eval.jsonl")
        return next(row["accuracy"] for row in reversed(rows) if row["eval_set"] == eval_set)

    return accuracy


MEASURES = {
    "old before": lambda run: old_gap(run).start,
    "depth": lambda run: old_gap(run).depth,
    "steps to lowest": lambda run: old_gap(run).steps_to_lowest,
    "steps to return": lambda run: old_gap(run).steps_to_return,
    "old after": after("old"),
    "new after": after("new"),
}
FORMS = {**dict.fromkeys(MEASURES, ".1%"), "steps to lowest": ".0f", "steps to return": ".0f"}
table = partial(study_table, forms=FORMS)
QUICK = ("stages.pretrain.steps=8", "stages.shift.steps=8", "stages.before.limit=8", "stages.after.limit=8")

if __name__ == "__main__":
    recipe = Path(__file__).with_name("shift.yaml")
    study_main(str(__doc__), recipe, CELLS, MEASURES, quick=QUICK, first="before", table=table)
