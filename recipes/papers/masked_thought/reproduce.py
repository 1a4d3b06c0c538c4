"""Masked Thought: tokens of the worked steps hidden from the model that learns to write them, against plain SFT.

    python recipes/papers/masked_thought/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

All cells see the same demonstrations in the same order. The chance p rises from 0 over the first two thirds of the steps.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rlcore.analysis.study import study_main
from rlcore.analysis.study_results import study_table

CELLS = {
    "plain SFT": (),
    "masked thought, p 0.4": ("stages.sft.transform={use: masked_thought, p: 0.4}",),
}
MEASURES = {
    "held-out sums": lambda run: run.accuracy["heldout"],
    "sums of the training set": lambda run: run.accuracy["trained"],
}
table = partial(study_table, forms=dict.fromkeys(MEASURES, ".1%"))
QUICK = ("stages.sft.steps=8", "stages.trained.limit=8", "stages.heldout.limit=8")

if __name__ == "__main__":
    recipe = Path(__file__).with_name("sums.yaml")
    study_main(str(__doc__), recipe, CELLS, MEASURES, quick=QUICK, first="sft", table=table)
