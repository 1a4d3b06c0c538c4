"""Domain upsampling: rare skills raised in the last part of training, against a mix that never changes.

    python recipes/papers/domain_upsampling/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

All cells have the same steps, batches and learning rates; `drop reverse` is the ablation of one domain
in the last phase, which shares every step before it with `last 20%`.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

from rlcore.analysis.study import study_main
from rlcore.analysis.study_results import study_table

STEPS, QUICK_STEPS = 200, 10
COMMON = ("copy", "largest", "count", "next")
BASE = {**dict.fromkeys(COMMON, 23), "sort": 4, "reverse": 4}
RAISED = {**dict.fromkeys(COMMON, 12.5), "sort": 25, "reverse": 25}
DROPPED = {**dict.fromkeys(COMMON, 12.5), "sort": 50}


def phases(steps: int, share: float, last: dict[str, float]) -> tuple[str, ...]:
    """The base mix, and in the last `share` of the steps another one."""
    mixes: list[dict] = [{"weights": last}]
    if share < 1:
        mixes.insert(0, {"until": round((1 - share) * steps), "weights": BASE})
    return (f"stages.sft.curriculum={json.dumps({'use': 'phases', 'phases': mixes})}",)


def cells(steps: int) -> dict[str, tuple[str, ...]]:
    return {
        "base mix": phases(steps, 1, BASE),
        "last 20%": phases(steps, 0.2, RAISED),
        "raised throughout": phases(steps, 1, RAISED),
        "last 20%, drop reverse": phases(steps, 0.2, DROPPED),
    }


CELLS = cells(STEPS)
MEASURES = {
    "common": lambda run: run.accuracy["common"],
    "sort": lambda run: run.accuracy["sort"],
    "reverse": lambda run: run.accuracy["reverse"],
}
table = partial(study_table, forms=dict.fromkeys(MEASURES, ".1%"))
QUICK = (f"stages.sft.steps={QUICK_STEPS}", *(f"stages.{name}.limit=8" for name in MEASURES))

if __name__ == "__main__":
    study_main(
        str(__doc__),
        Path(__file__).with_name("upsampling.yaml"),
        cells(QUICK_STEPS) if "--quick" in sys.argv else CELLS,
        MEASURES,
        quick=QUICK,
        first="sft",
        table=table,
    )
