"""Dataset decomposition: pieces of documents by length, against documents joined and cut into chunks.

    python recipes/papers/dataset_decomposition/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

All cells train on the same number of tokens. Seconds are those of the updates alone; the loss is that of
held-out documents' pieces, in nats per token (a byte).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from rlcore.analysis.demonstration_losses import demonstration_losses
from rlcore.analysis.study import CellRun, study_main
from rlcore.recipe.build import build_tasks
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints

RECIPE = Path(__file__).with_name("decompose.yaml")
CHUNKS = ("stages.sft.tasks=chunks", "stages.sft.curriculum=uniform")
CELLS = {
    "joined and cut": CHUNKS,
    "buckets, odds 1": ("stages.sft.curriculum={use: buckets, odds: 1.0, cycles: 8}",),
    "buckets, odds 2": (),
    "buckets, odds 2, one cycle": ("stages.sft.curriculum={use: buckets, odds: 2.0, cycles: 1}",),
}
LONG, MOST = 1024, 64
"""Length from which a held-out piece is long, and held-out pieces that are read of each kind."""


@cache
def losses(run: Path) -> dict[str, float]:
    """Mean loss of held-out pieces, by "long" and "short"."""
    tasks = build_tasks(load(str(RECIPE)).tasks["heldout"])
    model = all_checkpoints(run / "checkpoints")[-1]
    means = {}
    for kind in ("long", "short"):
        chosen = [task for task in tasks if (task.columns["tokens"] >= LONG) == (kind == "long")][:MOST]
        read = demonstration_losses(model, chosen)
        tokens = sum(task.columns["tokens"] for task in chosen)
        means[kind] = sum(loss * task.columns["tokens"] for loss, task in zip(read, chosen, strict=True)) / tokens
    return means


def loss(kind: str) -> Callable[[CellRun], float]:
    return lambda run: losses(run.folder)[kind]


def seconds(run: CellRun) -> float:
    """Of one update, the mean over the run without its first five."""
    times = [row["time/learn"] for row in run.rows[5:]]
    return sum(times) / len(times)


MEASURES = {
    "seconds a step": seconds,
    "tokens a step": lambda run: run.rows[-1]["tokens/trained"],
    "loss, long": loss("long"),
    "loss, short": loss("short"),
}
QUICK = ("stages.sft.steps=8",)

if __name__ == "__main__":
    study_main(str(__doc__), RECIPE, CELLS, MEASURES, quick=QUICK, first="sft")
