"""The other models that a run reads: teachers, students, and those whose differences an engine adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from rlcore.errors import RunError
from rlcore.recipe.build_learner import starting_point
from rlcore.run.folder import write_atomically

if TYPE_CHECKING:
    from rlcore.recipe.model_sections import EngineSection
    from rlcore.run.session import Run

FILE = "models.json"
"""In `references/`: run folder, as the recipe names it -> the checkpoint that this run reads."""


def frozen_model(run: Run, path: str) -> str:
    """Where a model that the recipe names by a path or hub name is read.

    Of a run folder it is the checkpoint that was the last when this run first read it, also after
    `--resume`: that other run may have gone on meanwhile. Collective. Raises `RunError` where the
    checkpoint is gone, or the run folder is this run's own.
    """
    from rlcore.run.processes import on_main

    on_main(run.accelerator, lambda: _choose(run, path), all_say=True)
    is_main = run.accelerator.is_main_process
    return str(run.gather([_chosen(run).get(path, path)] if is_main else [])[0])


def with_frozen_models(run: Run, section: EngineSection) -> EngineSection:
    """The engine's section, with the place of each model that `differences` names. Collective."""
    if not section.differences:
        return section
    located = [
        {
            **one,
            "tuned": frozen_model(run, one["tuned"]),
            "base": frozen_model(run, one["base"]),
        }
        for one in section.differences
    ]
    return section.model_copy(update={"differences": located})


def _choose(run: Run, path: str) -> None:
    """Note the checkpoint of a run folder that was not read before, or see that the noted one is there."""
    chosen = _chosen(run)
    if path in chosen:
        if not Path(chosen[path]).is_dir():
            raise RunError(
                f"{chosen[path]}, which this run reads as {path}, is gone: put it back, or start again with --overwrite"
            )
        return
    if Path(path).expanduser().resolve() == run.folder.path.resolve():
        raise RunError(
            f"the recipe names {path} as a model to be read, and it is the folder of this run: "
            "copy the checkpoint elsewhere, or choose another name with name=..."
        )
    folder = starting_point(path)
    if folder != path:
        with run.folder.writing(FILE):
            run.folder.references.mkdir(exist_ok=True)
            text = json.dumps(chosen | {path: folder}, indent=1)
            write_atomically(run.folder.references / FILE, text)


def _chosen(run: Run) -> dict[str, str]:
    file = run.folder.references / FILE
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
