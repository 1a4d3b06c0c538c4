"""RLPT small: saying the next line of a text after a thought, against next-token training on as
many tokens, then RLVR.

    python recipes/papers/rlpt/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

As many tokens: RLPT's prompts, each counted for all its completions, and the completions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main

NEXT_TOKEN = (
    "stages.rl={kind: sft, name: rl, tasks: texts, steps: 235, batch_size: 128, "
    "optim: {lr: 1e-3, schedule: cosine, warmup_steps: 20}}"
)
CELLS = {"RLPT": (), "next-token training": (NEXT_TOKEN,)}
EVALS = {"sums, worked": "sums", "sums, at once": "at_once", "ASR": "asr", "MSR": "msr"}


def accuracy(stage: str) -> Callable[[CellRun], float]:
    return lambda run: run.accuracy[stage]


def tokens(run: CellRun) -> float:
    """Tokens read and generated before RLVR."""
    total = 0
    for row in run.rows:
        if row["stage"] == "rl":
            generated = row.get("tokens/completion", row["tokens/trained"])
            total += row.get("tokens/prompt", 0) + generated
    return total


MEASURES: dict[str, Callable[[CellRun], float]] = {"tokens": tokens}
for label, stage in EVALS.items():
    for when in ("before", "after"):
        MEASURES[f"{label}: {when}"] = accuracy(f"{stage}_{when}")
MEASURES["sums, worked: after RLVR"] = accuracy("sums_rlvr")

if __name__ == "__main__":
    study_main(str(__doc__), Path(__file__).with_name("rlpt.yaml"), CELLS, MEASURES)
