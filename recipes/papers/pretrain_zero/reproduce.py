"""PretrainZero small: which spans a model hides while it learns to guess them, with the zero-accuracy guard and without it.

    python recipes/papers/pretrain_zero/reproduce.py [--quick] [--json] [--seeds 3] [--folder runs/papers/pretrain_zero]

The same policy chooses masks and guesses them, both in one step. README.md has the numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from recipes.papers.stories import KINDS, span_of

from rlcore.analysis.study import CellRun, study_main
from rlcore.run.folder import read_rows

CELLS = {"guard": (), "no guard": ("stages.rl.follow_up.guard=false",)}
STEPS = (1, 10, 20, 40)


def share(kind: str, step: int) -> Callable[[CellRun], float]:
    """Of the masks of five steps around `step`, how many hid a span of this kind."""

    def read(run: CellRun) -> float:
        first = min(row["step"] for row in run.rows) - 1
        last = max(row["step"] for row in run.rows) - first
        near = [s for s in range(step - 2, step + 3) if 1 <= s <= last]
        masks = [
            row
            for s in near
            for row in read_rows(run.folder / f"rollouts/{first + s:06d}.jsonl")
            if row["category"] == "mask"
        ]
        return Counter(map(hidden, masks))[kind] / len(masks)

    return read


def hidden(row: dict) -> str:
    """The kind of the span that an answer hides; "other" for any other span or none."""
    said = row["text"].removeprefix("<m>").partition("</m>")[0]
    return next(
        (kind for kind in KINDS if said == span_of(row["prompt"].removesuffix("!"), kind)), "other"
    )


def accuracy(stage: str) -> Callable[[CellRun], float]:
    return lambda run: run.accuracy[stage]


MEASURES = {
    **{
        f"step {step}: masks that are {kind}": share(kind, step)
        for step in STEPS
        for kind in (*KINDS, "other")
    },
    **{
        f"guesses of {kind}, {when}": accuracy(f"{kind}_{when}")
        for kind in KINDS
        for when in ("before", "after")
    },
}

if __name__ == "__main__":
    study_main(str(__doc__), Path(__file__).with_name("blanks.yaml"), CELLS, MEASURES)
