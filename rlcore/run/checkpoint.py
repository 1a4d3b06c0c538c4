"""A checkpoint is the run: model, optimizer, random state, cursor and curriculum.

It is written atomically and verified when it is read.

checkpoints/step_000050/
    model.safetensors, config.json, tokenizer files   loads with transformers' from_pretrained
    adapter/               with model.peft: the adapter alone, loads with peft (merged above)
    ema/                   with optim.ema: the averaged weights, a model like the one above
    trainer/state.pt       optimizer moments, schedule position, random state
    trainer/shards/        what FSDP2 has sharded of these, a file for each process (learner/shard_files.py)
    trainer/cursor.json    where the run stands: stage, step, curriculum
    trainer/manifest.json  checksum of every other file, written last

Folders whose names begin with a dot are steps on the way; a kill may leave them (`recover`):
`.draft_X` is not complete yet, `.replaced_X` is complete until its successor `X` is in place, and
`.removed_X` is being deleted.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlcore.errors import RunError
from rlcore.run.disk import remove, writing

NAME = re.compile(r"step_\d+")
SHARDS = "trainer/shards"


@dataclass
class Cursor:
    """Where a run stands: the next thing to do is step `stage_step` (from 0) of stage `stage`."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    """Steps done in all stages; also the policy version."""
    curriculum: dict[str, Any] = field(default_factory=dict)
    """State of the task sampler of the stage whose learner is saved beside it."""
    ended_after: int | None = None
    """Steps of the stage before `stage`, where that stage has just ended.

    If the recipe then gives it more steps, it goes on.
    """

    def pass_evaluated(
        self, stages: Sequence[Any], evaluations: Iterable[Mapping[str, Any]]
    ) -> None:
        """Go on after the eval stages that evaluated just this model: they would find the same again.

        evaluations: rows of eval.jsonl.
        """
        found = {
            (row["stage_index"], row["eval_set"])
            for row in evaluations
            if row.get("step") == self.step and "during" not in row
        }
        while self.stage < len(stages) and self.stage_step == 0:
            stage = stages[self.stage]
            if stage.kind != "eval" or not found.issuperset(
                (self.stage, name) for name in stage.task_sets
            ):
                return
            self.stage += 1


def begin(folder: Path, cursor: Cursor) -> None:
    """Make the folder in which a checkpoint is written. The first rank calls it, before any rank writes its shards."""
    draft = _draft_of(_place(folder, cursor))
    with _writing(draft, _name(folder, cursor), main=True):
        recover(folder)
        (draft / "trainer").mkdir(parents=True)


def finish(
    folder: Path,
    cursor: Cursor,
    *,
    save_model: Callable[[Path], None],
    state: dict[str, Any],
    keep: int,
    shards: Callable[[Path], dict[str, str]] | None = None,
) -> None:
    """Write `folder/step_NNNNNN` and remove all but the newest `keep` checkpoints.

    A kill at any moment leaves only complete checkpoints and what `recover` clears; so does a full
    disk, which is a `RunError`. `save_model(path)` writes the model's files. `state` goes through
    torch.save. `shards(path)` waits until the shards of all ranks are in `path`, and returns their
    checksums by name. The first rank calls it, after `begin`.
    """
    final = _place(folder, cursor)
    draft = _draft_of(final)
    with _writing(draft, _name(folder, cursor), main=True):
        save_model(draft)
        written = {} if shards is None else shards(draft / SHARDS)
        known = {f"{SHARDS}/{name}": value for name, value in written.items()}
        _write_trainer(draft, cursor, state, known)
        _put_in_place(draft, final)
        keep_newest(folder, keep)


def shards_of(folder: Path, cursor: Cursor) -> Path:
    """Where each rank writes its shards of a checkpoint that has begun."""
    return _draft_of(_place(folder, cursor)) / SHARDS


def _place(folder: Path, cursor: Cursor) -> Path:
    return folder / f"step_{cursor.step:06d}"


def _name(folder: Path, cursor: Cursor) -> str:
    return f"checkpoint {_place(folder, cursor).name}"


def save_reference(
    path: Path, *, save_model: Callable[[Path], None], main: bool = True
) -> None:
    """Write the model alone to `path`, replacing what is there. Every rank calls it."""
    draft = _draft_of(path)
    with _writing(draft, f"the reference model {path.name}", main=main):
        if main:
            recover(path.parent)
            draft.mkdir(parents=True)
        save_model(draft)
        if main:
            _put_in_place(draft, path)


@contextmanager
def _writing(draft: Path, what: str, *, main: bool) -> Iterator[None]:
    """`disk.writing`; a draft that could not be finished gives back its space."""
    with writing(what, draft.parent.parent):
        try:
            yield
        except Exception:
            if main:
                recover(draft.parent)
            raise


def recover(folder: Path) -> None:
    """Clear what a kill left in a folder of checkpoints, and put back what it nearly cost."""
    for path in _left_behind(folder, ".replaced_"):
        final = folder / path.name.removeprefix(".replaced_")
        if final.exists():
            _remove(path)
        else:  # killed between the two renames of `_put_in_place`
            os.replace(path, final)
    for path in (*_left_behind(folder, ".removed_"), *_left_behind(folder, ".draft_")):
        remove(path, inside=folder)


def keep_newest(folder: Path, number: int) -> None:
    """Remove older checkpoints; a kill may have left one too many."""
    for old in all_checkpoints(folder)[:-number]:
        _remove(old)


def all_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first; other names, such as `step_000010.bak`, are ignored."""
    paths = [path for path in folder.glob("step_*") if NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda path: int(path.name.removeprefix("step_")))


def read(path: Path, *, share: tuple[int, int] = (0, 1)) -> tuple[Cursor, dict[str, Any]]:
    """Cursor and trainer state of a checkpoint, verified by its manifest. Raises `RunError`.

    In place of sharded tensors the state has `StoredTensor`s, from which each rank takes its part.
    share: this rank and the number of ranks, where each verifies only a part of the files.
    """
    import torch  # here: a recipe is checked without it

    from rlcore.learner.shard_files import with_stored

    try:
        _verify(path, share)
        cursor = read_cursor(path)
        state = torch.load(path / "trainer/state.pt", map_location="cpu", weights_only=True)
        state = with_stored(state, path / SHARDS)
    except (OSError, ValueError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise _damaged(path, str(error)) from None
    return cursor, state


def check_complete(path: Path) -> None:
    """Raise `RunError` unless all files of a checkpoint are those that were written."""
    try:
        _verify(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def read_cursor(path: Path) -> Cursor:
    """The cursor alone, unverified. Raises `RunError`."""
    try:
        return Cursor(**_read_json(path, "trainer/cursor.json"))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from None


def _verify(path: Path, share: tuple[int, int] = (0, 1)) -> None:
    """Raise `OSError` or `ValueError` unless all files, or the share of one of several ranks, are those that were written."""
    manifest = _read_json(path, "trainer/manifest.json")
    if "trainer/state.pt" not in manifest:
        raise ValueError("trainer/manifest.json is no list of its files")
    rank, ranks = share
    for name, expected in sorted(manifest.items())[rank::ranks]:
        if checksum(path / name) != expected:
            raise ValueError(f"{name} differs from what was written")


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((path / name).read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{name} is empty, or cut") from None
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not what was written")
    return value


def _is_complete(path: Path) -> bool:
    try:
        _verify(path)
    except (OSError, ValueError):
        return False
    return True


def _damaged(path: Path, problem: str) -> RunError:
    others = [other for other in all_checkpoints(path.parent) if other != path]
    complete = [other.name for other in others if _is_complete(other)]
    if complete:
        advice = (
            f"delete it, and what is newer than {complete[-1]}, to resume from {complete[-1]}"
        )
        if complete[-1] == others[-1].name:
            advice = f"delete that folder to resume from {complete[-1]}"
    else:
        advice = "start again with --overwrite"
    return RunError(f"checkpoint {path} is damaged: {problem}; {advice}")


def _write_trainer(
    draft: Path, cursor: Cursor, state: dict[str, Any], known: dict[str, str]
) -> None:
    """known: checksums of files that are not read again."""
    import torch

    trainer = draft / "trainer"
    torch.save(state, trainer / "state.pt")
    (trainer / "cursor.json").write_text(json.dumps(asdict(cursor)), encoding="utf-8")
    manifest = {}
    for path in _files(draft):
        name = str(path.relative_to(draft))
        manifest[name] = known[name] if name in known else checksum(path)
    (trainer / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _draft_of(final: Path) -> Path:
    return final.with_name(f".draft_{final.name}")


def _put_in_place(draft: Path, final: Path) -> None:
    """Rename `draft` to `final`. What `final` held is removed only after that."""
    for path in (*_files(draft), *_folders(draft)):
        _flush(path)
    replaced = final.with_name(f".replaced_{final.name}")
    if final.exists():
        os.replace(final, replaced)
    os.replace(draft, final)
    _flush(final.parent)
    if replaced.exists():
        _remove(replaced)


def _remove(path: Path) -> None:
    """Delete a folder. It loses its name first: half of it must not look like a checkpoint."""
    removed = path.with_name(f".removed_{path.name.removeprefix('.replaced_')}")
    remove(removed, inside=path.parent)
    os.replace(path, removed)
    remove(removed, inside=path.parent)


def _left_behind(folder: Path, prefix: str) -> list[Path]:
    return sorted(folder.glob(f"{prefix}*"))


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _folders(folder: Path) -> list[Path]:
    """The folder itself and those in it: their entries must be on disk too."""
    return [folder, *sorted(path for path in folder.rglob("*") if path.is_dir())]


def _flush(path: Path) -> None:
    """Force a file or folder to disk: the rename must not overtake the bytes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
