"""The model that a stage began with, for objectives that compare the policy with it and as a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlcore.errors import RunError
from rlcore.learner.policy import Policy
from rlcore.recipe.build_learner import build_policy
from rlcore.run import checkpoint
from rlcore.run.disk import remove

if TYPE_CHECKING:
    from rlcore.run.session import Run


def stage_reference(run: Run) -> Policy | None:
    """None while it is the policy itself, which is saved for the day the run is resumed.

    None also under adapters: their reference is the base below them, which does not change.
    """
    if run.recipe.model.peft:
        return None
    path = starting_model(run)
    if run.cursor.stage_step == 0:
        return None
    return build_policy(run.recipe, path, run.accelerator)


def whole_copy(run: Run) -> Policy:
    """The policy once more, whole on each rank's device, by way of the disk. Collective."""
    path = run.folder.path / ".whole_policy"
    main = run.accelerator.is_main_process
    checkpoint.save_reference(path, save_model=run.policy.save, main=main)
    run.accelerator.wait_for_everyone()
    policy = build_policy(run.recipe, path, run.accelerator, whole=True)
    run.accelerator.wait_for_everyone()
    if main:
        remove(path, inside=run.folder.path)
    return policy


def starting_model(run: Run, suffix: str = "") -> Path:
    """The folder of the model that the stage began with, written when it begins: a resumed run reads it there.

    suffix: of the folder's name. Collective. Raises `RunError` where it is gone.
    """
    path = run.folder.references / f"stage_{run.cursor.stage:02d}{suffix}"
    if run.cursor.stage_step == 0:
        checkpoint.save_reference(
            path, save_model=run.policy.save, main=run.accelerator.is_main_process
        )
        run.accelerator.wait_for_everyone()
    if not path.is_dir():
        raise RunError(
            f"{path}, the model this stage began with, is missing: put it back, or start again with --overwrite"
        )
    return path
