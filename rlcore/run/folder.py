"""The run folder: one place for everything a run leaves behind.

runs/<name>/  recipe.yaml (resolved) . metrics.jsonl (one object a step) . eval.jsonl (one an evaluation)
              rollouts/NNNNNN.jsonl (one object a rollout) . checkpoints/step_NNNNNN/
              curriculum.svg (share, pass rate and value of each category, where there are several)
              samples/<stage>/ (rollouts of a sample stage) . pairs/<stage>.jsonl (what a prefer stage compared)
              references/stage_NN/ (the model a stage began with, where its objective compares with it)
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rlcore.errors import RunError
from rlcore.recipe.load import dump, load
from rlcore.recipe.schema import Recipe
from rlcore.run.checkpoint import all_checkpoints, read_cursor

MARK = ".rlcore"
"""File that every run folder has; the process that runs holds a lock on it."""


MAY_CHANGE = re.compile(r"run\.|stages\.\d+\.steps$")
"""Keys that a resumed run may have other values of; with more steps it is extended."""


class RunFolder:
    """Writes a run's files. Only the main process changes shared files; every process may write its own rollouts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.metrics = path / "metrics.jsonl"
        self.evals = path / "eval.jsonl"
        self.rollouts = path / "rollouts"
        self.checkpoints = path / "checkpoints"
        self.references = path / "references"
        self.picture = path / "curriculum.svg"
        self.samples = path / "samples"
        self.pairs = path / "pairs"

    def start(self, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
        """Take the folder for this process, and empty it or check that the run in it may go on. Raises `RunError`."""
        try:
            self._claim()
            if self.recipe.exists():
                if resume:
                    self._same_recipe(recipe)
                elif overwrite:
                    self._empty()
                else:
                    raise RunError(
                        f"{self.path} already holds a run: continue it with --resume, replace it with --overwrite, "
                        f"or choose another name with name=..."
                    )
            self.rollouts.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            self.recipe.write_text(dump(recipe), encoding="utf-8")
        except OSError as error:
            raise RunError(
                f"the run folder {self.path} cannot be written ({error.strerror or error}): choose another with run.folder=..."
            ) from None

    def _claim(self) -> None:
        """Hold the folder until this process ends, however it ends. The mark left in it says that what is here is a run's."""
        mark = self.path / MARK
        if self.path.exists() and not mark.exists() and any(self.path.iterdir()):
            raise RunError(
                f"{self.path} holds files that are no run of rlcore: choose another name with name=..."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = mark.open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is running in {self.path}: wait for it, or choose another name with name=..."
            ) from None

    def _empty(self) -> None:
        """Remove what a run writes, and nothing else that somebody may have put here."""
        for folder in (self.rollouts, self.checkpoints, self.references, self.samples, self.pairs):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.metrics, self.evals, self.recipe, self.picture):
            file.unlink(missing_ok=True)

    def forget_after(self, *, step: int, stage: int) -> None:
        """Drop what a killed run wrote after its last checkpoint, so that resuming writes it once."""
        _keep_rows(self.metrics, lambda row: row["step"] <= step)
        _keep_rows(self.evals, lambda row: row["stage_index"] < stage)
        for path in self.rollouts.glob("*.jsonl"):
            if int(path.name.split(".")[0]) > step:
                path.unlink()

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        _append(self.metrics, row)

    def log_eval(self, row: Mapping[str, Any]) -> None:
        _append(self.evals, row)

    def write_rollouts(self, step: int, rank: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """One file a step and process; the main process's has no suffix."""
        suffix = f".rank{rank}" if rank else ""
        with (self.rollouts / f"{step:06d}{suffix}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(_line(row) for row in rows)

    def new_sample(self, stage: str) -> None:
        """Make the folder of a sample stage, without what an earlier attempt left in it."""
        shutil.rmtree(self.samples / stage, ignore_errors=True)
        (self.samples / stage).mkdir(parents=True)

    def append_sample(self, stage: str, rank: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """One file a process."""
        with (self.samples / stage / f"rank{rank}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(_line(row) for row in rows)

    def summarise_sample(self, stage: str, metrics: Mapping[str, Any]) -> None:
        (self.samples / stage / "summary.json").write_text(
            json.dumps(metrics, indent=1), encoding="utf-8"
        )

    def write_pairs(self, stage: str, rows: Iterable[Mapping[str, Any]]) -> None:
        self.pairs.mkdir(exist_ok=True)
        with (self.pairs / f"{stage}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(_line(row) for row in rows)

    def _same_recipe(self, recipe: Recipe) -> None:
        before, now = (_flat(r.model_dump(mode="json")) for r in (load(str(self.recipe)), recipe))
        changed = sorted(
            key
            for key in before.keys() | now.keys()
            if before.get(key) != now.get(key) and not MAY_CHANGE.match(key)
        )
        if changed:
            shown = ", ".join(
                f"{key} ({before.get(key)!r} -> {now.get(key)!r})" for key in changed[:3]
            )
            raise RunError(
                f"the run in {self.path} was made by another recipe, first difference: {shown}; resume it without that change "
                f"(run.* and the stages' steps may change), or start a new one with name=..."
            )
        self._refuse_steps(load(str(self.recipe)), recipe)

    def _refuse_steps(self, before: Recipe, now: Recipe) -> None:
        """Raise `RunError` for other steps of a stage that has ended and was followed, or fewer than were made."""
        found = all_checkpoints(self.checkpoints)
        if not found:
            return
        cursor = read_cursor(found[-1])
        for i, (old, new) in enumerate(zip(before.stages, now.stages, strict=True)):
            if i > cursor.stage or old.model_dump() == new.model_dump():
                continue
            steps = new.steps
            made = (
                cursor.stage_step
                if i == cursor.stage
                else cursor.ended_after
                if i == cursor.stage - 1
                else None
            )
            if made is None or steps < made:
                why = (
                    "it has ended, and others went on from it"
                    if made is None
                    else f"it has made {made} steps"
                )
                raise RunError(
                    f"stages.{i}.steps cannot become {steps}: {why}; start a new run with name=..."
                )


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a jsonl file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    rows = []
    with path.open(
        encoding="utf-8", newline="\n"
    ) as lines:  # splitlines() would also cut at U+2028, which JSON texts may hold
        for line in lines:
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return rows


def _keep_rows(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    if path.exists():
        kept = [_line(row) for row in read_rows(path) if keep(row)]
        draft = path.with_suffix(".draft")
        draft.write_text("".join(kept), encoding="utf-8")
        os.replace(draft, path)  # a kill in between must not cost the rows


def _append(path: Path, row: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(_line(row))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {
            k: v
            for key, item in items
            for k, v in _flat(item, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    return {prefix: value}
