"""RL on incorrect data with a pretrained model and real word problems: SFT, RFT and advantages of each step.

    python recipes/papers/rl_on_incorrect/reproduce_smollm2.py [--quick] [--seeds 3] [--json | --table]

Every cell begins with SmolLM2-135M-Instruct and SFT on the given solutions of D problems. README.md has
the numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main
from rlcore.analysis.study_results import study_table

SFT = ("stages.drawn=null", "stages.learned=null", "stages.after=null")
RFT = (
    "stages.drawn.steps=null",
    "stages.learned.credit={baseline: none, zero_variance: keep}",
    "stages.learned.objective=sft",
    "stages.learned.keep=correct",
    "stages.learned.distinct=4",
)
ONE = ("stages.drawn.steps.rollouts=1",)
SIZES = (32, 128)
SFT_SIZES = (32, 64, 128, 256)


def on(problems: int, *changes: str) -> tuple[str, ...]:
    return (f"tasks.problems.limit={problems}", *changes)


CELLS = {f"SFT, D={size}": on(size, *SFT) for size in SFT_SIZES}
for size in SIZES:
    CELLS[f"RFT, D={size}"] = on(size, *RFT)
    CELLS[f"per step, D={size}"] = on(size)
    CELLS[f"per step, 1 rollout, D={size}"] = on(size, *ONE)
QUICK_CELLS = [name for name in CELLS if name.endswith("D=32")]
QUICK = (
    "stages.sft.steps=2",
    "stages.drawn.num_samples=2",
    "stages.drawn.limit=4",
    "stages.learned.steps=2",
    "tasks.eval_set.limit=8",
    "stages.after_sft.num_samples=1",
)


def accuracy(key: str) -> Callable[[CellRun], float]:
    """Of the last evaluation, which after SFT alone is the only one."""
    return lambda run: run.evals.get("after", run.evals["after_sft"])[key]


MEASURES = {"sampled": accuracy("accuracy"), "greedy": accuracy("greedy/accuracy")}

if __name__ == "__main__":
    study_main(
        str(__doc__),
        Path(__file__).with_name("smollm2.yaml"),
        CELLS,
        MEASURES,
        quick=QUICK,
        quick_cells=QUICK_CELLS,
        first="sft",
        table=partial(study_table, forms=dict.fromkeys(MEASURES, ".1%")),
    )
