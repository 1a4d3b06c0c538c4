"""Dataset decomposition: pieces of documents by length, against documents joined and cut into chunks.

    python recipes/papers/dataset_decomposition/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

All cells train on the same number of tokens. The loss is that of held-out documents, in nats per token (a byte): of
their pieces, long and short, and of chunks in which they are joined. `speed.py` measures the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from rlcore.analysis.demonstration_losses import demonstration_losses
from rlcore.analysis.study import CellRun, study_main
from rlcore.analysis.study_results import study_table
from rlcore.recipe.build import build_tasks
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.types import Task

RECIPE = Path(__file__).with_name("decompose.yaml")
CHUNKS = ("stages.sft.tasks=chunks", "stages.sft.curriculum=uniform", "stages.sft.batch_size=1")
CELLS = {
    "joined and cut": CHUNKS,
    "buckets": (),
}
LONG, MOST = 512, 64
"""Length from which a held-out piece is long, and held-out pieces that are read of each kind."""
MOST_CHUNKS = 16


@cache
def losses(run: Path) -> dict[str, float]:
    """Mean loss of held-out text per token, by "long", "short" (pieces) and "joined" (chunks)."""
    recipe = load(str(RECIPE))
    pieces = build_tasks(recipe.tasks["heldout"])
    model = all_checkpoints(run / "checkpoints")[-1]
    long = [task for task in pieces if task.columns["tokens"] >= LONG]
    short = [task for task in pieces if task.columns["tokens"] < LONG]
    joined = build_tasks(recipe.tasks["heldout_joined"])
    return {
        "long": loss_per_token(model, long[:MOST]),
        "short": loss_per_token(model, short[:MOST]),
        "joined": loss_per_token(model, joined[:MOST_CHUNKS]),
    }


def loss_per_token(model: Path, tasks: Sequence[Task]) -> float:
    total = 0.0
    for task, loss in zip(tasks, demonstration_losses(model, tasks), strict=True):
        total += loss * task.columns["tokens"]
    return total / sum(task.columns["tokens"] for task in tasks)


def loss(kind: str) -> Callable[[CellRun], float]:
    return lambda run: losses(run.folder)[kind]


MEASURES = {
    "tokens a step": lambda run: run.rows[-1]["tokens/trained"],
    "loss, long": loss("long"),
    "loss, short": loss("short"),
    "loss, joined": loss("joined"),
}
table = partial(study_table, forms={"tokens a step": ".0f"})
QUICK = ("stages.sft.steps=8",)

if __name__ == "__main__":
    study_main(str(__doc__), RECIPE, CELLS, MEASURES, quick=QUICK, first="sft", table=table)
