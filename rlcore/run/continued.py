"""The optimiser of one training stage taken over by the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlcore.errors import RunError
from rlcore.run import checkpoint
from rlcore.run.shards import read_together

if TYPE_CHECKING:
    from rlcore.learner.update import Learner
    from rlcore.run.session import Run
    from rlcore.stages.base import Stage


def continue_optimiser(run: Run, stage: Stage, learner: Learner) -> None:
    """Give a new learner what the last one left: optimiser, place in the schedule and averaged weights; or moments alone.

    Only where the stage says so (`optim.continues`) and begins now; one that is resumed has its own. Collective.
    Raises `RunError` where the last checkpoint holds no optimiser.
    """
    resumed = run.saved is not None and "learner" in run.saved
    if resumed or not getattr(stage.optim, "continues", False):
        return
    saved = checkpoint.all_checkpoints(run.folder.checkpoints)
    state = read_together(saved[-1], run.accelerator)[1] if saved else {}
    if "learner" not in state:
        raise RunError(
            f"stage {stage.label} goes on with the optimiser of the stage before it, and the last checkpoint of "
            f"{run.folder.path} has none: train that stage again, or leave out optim.continues"
        )
    if stage.optim.continues == "moments":
        learner.take_moments(state["learner"])
        return
    # Coefficients that move belong to the objective, which may be another one now.
    moving = {
        f"objective/{name}": control.state_dict()
        for name, control in learner.objective.controls.items()
    }
    learner.load_state_dict({**state["learner"], **moving, "version": learner.version})
