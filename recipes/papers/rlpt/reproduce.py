"""RLPT small: saying the next line of a text after thought, against plain next-token training on as many tokens, then RLVR.

    python recipes/papers/rlpt/reproduce.py [--quick] [--json] [--seeds 3] [--folder runs/papers/rlpt]

As many tokens: RLPT's prompts, each counted for all its answers, and the answers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.study import CellRun, study_main

TEXTS = "{kind: sft, name: rl, tasks: texts, steps: 235, batch_size: 128, optim: {lr: 1e-3, schedule: cosine, warmup_steps: 20}}"
CELLS = {"RLPT": (), "next-token training": (f"stages.rl={TEXTS}",)}
EXAMS = {"sums, worked": "sums", "sums, at once": "at_once", "ASR": "asr", "MSR": "msr"}


def accuracy(stage: str) -> Callable[[CellRun], float]:
    return lambda run: run.accuracy[stage]


def tokens(run: CellRun) -> float:
    """Tokens read and written before RLVR."""
    rows = [row for row in run.rows if row["stage"] == "rl"]
    return sum(
        row.get("tokens/prompt", 0) + row.get("tokens/completion", row["tokens/trained"])
        for row in rows
    )


MEASURES = {
    "tokens": tokens,
    **{
        f"{eval_set}: {when}": accuracy(f"{name}_{when}")
        for eval_set, name in EXAMS.items()
        for when in ("before", "after")
    },
    "sums, worked: after RLVR": accuracy("sums_rlvr"),
}

if __name__ == "__main__":
    study_main(str(__doc__), Path(__file__).with_name("rlpt.yaml"), CELLS, MEASURES)
