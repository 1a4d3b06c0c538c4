"""A checkpoint is the run: model, optimiser, random state, cursor and curriculum, written atomically and verified when read.

checkpoints/step_000050/  model.safetensors, config.json, tokenizer files   loads with transformers' from_pretrained
                          adapter/              with model.peft: the adapter alone, loads with peft (the model above is merged)
                          ema/                  with optim.ema: the averaged weights, a model like the one above
                          trainer/state.pt      optimiser moments, schedule position, random state
                          trainer/cursor.json   where the run stands: stage, step, curriculum
                          trainer/manifest.json size and checksum of every other file, written last
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlcore.errors import RunError


@dataclass
class Cursor:
    """Where a run stands: the next thing to do is step `stage_step` (from 0) of stage `stage`."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    """Optimiser steps done in all stages; also the policy version."""
    curriculum: dict[str, Any] = field(default_factory=dict)
    """State of the task engine, of the stage whose learner is saved beside it."""
    ended_after: int | None = None
    """Steps of the stage before `stage`, where that stage has just ended: with more steps in the recipe it goes on."""


def save(
    folder: Path,
    cursor: Cursor,
    *,
    save_model: Callable[[Path], None],
    state: dict[str, Any],
    keep: int,
    main: bool = True,
) -> None:
    """Write `folder/step_NNNNNN` and remove all but the newest `keep`. A kill at any moment leaves only whole checkpoints.

    `save_model(path)` writes the model's files and is called by every rank, because gathering shards takes all of them; the
    rest is done by the `main` rank alone. `state` goes through torch.save.
    """
    final = folder / f"step_{cursor.step:06d}"
    draft = folder / f".draft_{final.name}"
    if main:
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "trainer").mkdir(parents=True)
    save_model(draft)
    if main:
        _write_trainer(draft, cursor, state)
        for path in _files(draft):
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(draft, final)
        _flush(folder)
        for old in all_checkpoints(folder)[:-keep]:
            shutil.rmtree(old, ignore_errors=True)


def _write_trainer(draft: Path, cursor: Cursor, state: dict[str, Any]) -> None:
    import torch

    trainer = draft / "trainer"
    torch.save(state, trainer / "state.pt")
    (trainer / "cursor.json").write_text(json.dumps(asdict(cursor)), encoding="utf-8")
    manifest = {str(path.relative_to(draft)): _checksum(path) for path in _files(draft)}
    (trainer / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def save_reference(path: Path, *, save_model: Callable[[Path], None], main: bool = True) -> None:
    """Write the model alone to `path`, in place of what is there, whole or not at all. Every rank calls it."""
    draft = path.parent / f".draft_{path.name}"
    if main:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    save_model(draft)
    if main:
        for file in _files(draft):
            _flush(file)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(draft, path)
        _flush(path.parent)


def all_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(folder.glob("step_*"), key=lambda path: int(path.name.removeprefix("step_")))


def read(path: Path) -> tuple[Cursor, dict[str, Any]]:
    """Cursor and trainer state of a checkpoint whose every byte agrees with its manifest. Raises `RunError`."""
    import torch  # here: a recipe is checked without it

    try:
        manifest = json.loads((path / "trainer/manifest.json").read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            if _checksum(path / name) != expected:
                raise _damaged(path, f"{name} differs from what was written")
        return read_cursor(path), torch.load(
            path / "trainer/state.pt", map_location="cpu", weights_only=True
        )
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from None


def read_cursor(path: Path) -> Cursor:
    """The cursor alone, unverified."""
    return Cursor(**json.loads((path / "trainer/cursor.json").read_text(encoding="utf-8")))


def _damaged(path: Path, problem: str) -> RunError:
    others = [p.name for p in all_checkpoints(path.parent) if p != path]
    way_out = (
        f"delete that folder to resume from {others[-1]}"
        if others
        else "start again with --overwrite"
    )
    return RunError(f"checkpoint {path} is damaged: {problem}; {way_out}")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _flush(path: Path) -> None:
    """Force a file or folder to disk: the rename must not overtake the bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
