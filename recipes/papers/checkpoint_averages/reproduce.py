"""CMA: averages of the last checkpoints at a constant rate, against a rate that falls, in random and ascending order of quality.

    python recipes/papers/checkpoint_averages/reproduce.py [--quick] [--seeds 3] [--folder F] [--json | --table]

All cells read the same demonstrations once. The last six checkpoints span the last fifth of the steps, in which the rate
of the decaying cells falls to 0. Losses are in nats per token of right demonstrations of held-out sums.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlcore.analysis.demonstration_losses import demonstration_losses
from rlcore.analysis.study import CellRun, study_main
from rlcore.analysis.study_results import study_table
from rlcore.plugin import Named
from rlcore.recipe.build import build_tasks
from rlcore.recipe.load import load
from rlcore.run.checkpoint import all_checkpoints
from rlcore.run.merged import merge_models

RECIPE = Path(__file__).with_name("averages.yaml")
LAST = 6
RANDOM = "stages.sft.curriculum=uniform"
DECAY = "stages.sft.optim.schedule={use: wsd, decay_fraction: 0.2}"
CELLS = {
    "random, constant": (RANDOM,),
    "random, decay": (RANDOM, DECAY),
    "ascending, constant": (),
    "ascending, decay": (DECAY,),
}


def loss(rule: Named | None) -> Callable[[CellRun], float]:
    """Of the last checkpoint, or of the last six merged by a rule."""

    def mean(run: CellRun) -> float:
        model = all_checkpoints(run.folder / "checkpoints")[-1]
        if rule is not None:
            name = rule if isinstance(rule, str) else rule["use"]
            model = run.folder / f"merged_{name}"
            if not model.exists():
                merge_models([str(run.folder)], model, rule, last=LAST)
        tasks = build_tasks(load(str(RECIPE)).tasks["heldout"])
        losses = demonstration_losses(model, tasks)
        return sum(losses) / len(losses)

    return mean


MEASURES = {
    "last checkpoint": loss(None),
    "mean of the last six": loss("mean"),
    "EMA chain of the last six": loss({"use": "ema", "alpha": 0.2}),
}
table = study_table
QUICK = ("stages.sft.steps=12", "run.checkpoint_every=2", "tasks.demonstrations.size=768")

if __name__ == "__main__":
    study_main(str(__doc__), RECIPE, CELLS, MEASURES, quick=QUICK, first="sft", table=table)
