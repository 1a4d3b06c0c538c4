"""RLPT on real text with SmolLM2-135M: the next two tokens, or two whose continuation is known, before and after RL.

    python recipes/papers/rlpt/reproduce_smollm2.py [--quick] [--seeds 1] [--folder F] [--json | --table]

Beside it next-token training on the same documents. README.md has the numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main

BLOCKS = 16
"""Blocks of 128 tokens a step of next-token training, about as many tokens as RLPT reads and writes."""
OPTIM = "optim: {lr: 1e-5, warmup_steps: 5, micro_batch_tokens: 2048}"
NEXT_TOKEN = f"stages.rl={{kind: sft, name: rl, tasks: blocks, steps: 60, batch_size: {BLOCKS}, {OPTIM}}}"
CELLS = {"RLPT": (), "next-token training": (NEXT_TOKEN,)}
EVALS = {"ASR": "asr", "MSR": "msr", "ASR, greedy": "asr_best", "MSR, greedy": "msr_best"}
QUICK = (
    "stages.rl.steps=3",
    *(f"stages.{stage}_{when}.limit=16" for stage in EVALS.values() for when in ("before", "after")),
)


def accuracy(stage: str) -> Callable[[CellRun], float]:
    return lambda run: run.accuracy[stage]


def tokens(run: CellRun) -> float:
    """Through the learner's forward and backward; groups without a gradient are left out."""
    rows = [row for row in run.rows if row["stage"] == "rl"]
    return sum(row.get("tokens/forward_backward", row["tokens/trained"]) for row in rows)


MEASURES: dict[str, Callable[[CellRun], float]] = {}
for label, stage in EVALS.items():
    for when in ("before", "after"):
        MEASURES[f"{label}: {when}"] = accuracy(f"{stage}_{when}")
MEASURES["tokens"] = tokens

if __name__ == "__main__":
    recipe = Path(__file__).with_name("smollm2.yaml")
    study_main(str(__doc__), recipe, CELLS, MEASURES, quick=QUICK)
