"""The run folder: one place for everything a run leaves behind.

runs/<name>/
    recipe.yaml             the resolved recipe
    metrics.jsonl           one object a step
    eval.jsonl              one object an evaluation
    starts.jsonl            one object a process that started or resumed the run
    rollouts/NNNNNN.jsonl   one object a rollout
    evaluations/            completions of each evaluation, named in its row of eval.jsonl
    best/                   with keep_best: the model of the most accurate evaluation
    checkpoints/step_NNNNNN/
    curriculum.svg          fraction, pass rate and value of each category, if there are several
    samples/<stage>/        rollouts of a sample stage
    pairs/<stage>.jsonl     what a prefer or reward_model stage compared
    reward_models/<stage>/  what a reward_model stage trained; loads with transformers
    exams/                  scores of the reward student_exam, so that no exam is taken twice
    references/stage_NN/    the model a stage began with, if its objective compares with it
    references/models.json  of other runs' folders that the recipe names as models, what was read
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Literal

from rlcore.errors import RunError
from rlcore.recipe.load import RUN_RECIPE, dump
from rlcore.recipe.run_mark import RUN_MARK, RunMark, read_mark, write_mark
from rlcore.recipe.schema import Recipe
from rlcore.run.checkpoint import all_checkpoints, recover
from rlcore.run.disk import is_full, remove, write_error, writing
from rlcore.run.same_recipe import check_same_recipe

ROLLOUT_FILE = re.compile(r"(\d+)(\.rank\d+)?\.jsonl")


class RunFolder:
    """Writes a run's files.

    Only the main process changes shared files; every process may write its own rollouts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / RUN_RECIPE
        self.metrics = path / "metrics.jsonl"
        self.evals = path / "eval.jsonl"
        self.starts = path / "starts.jsonl"
        self.rollouts = path / "rollouts"
        self.evaluated = path / "evaluations"
        self.best = path / "best"
        self.checkpoints = path / "checkpoints"
        self.references = path / "references"
        self.picture = path / "curriculum.svg"
        self.samples = path / "samples"
        self.pairs = path / "pairs"
        self.reward_models = path / "reward_models"
        self.exams = path / "exams"
        self.served_model = path / ".model"
        """What an engine reads its architecture and tokenizer from while it starts."""
        self._lock: IO[str] | None = None
        self._mark = RunMark()

    @classmethod
    def of_run(cls, path: Path) -> RunFolder:
        """The folder of a run to be looked at. Raises `RunError` where there is none."""
        folder = cls(path)
        if not folder.recipe.is_file():
            raise RunError(f"{path} is no run folder: there is no recipe.yaml in it")
        return folder

    def rollout_files(self) -> Iterator[tuple[int, Path]]:
        """(step, file) of the rollouts of rl stages, in order; each process wrote one a step."""
        for path in sorted(self.rollouts.glob("*.jsonl")):
            name = ROLLOUT_FILE.fullmatch(path.name)
            if name:
                yield int(name[1]), path

    def start(self, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
        """Lock the folder for this process, and empty it or check that its run may be resumed.

        What a killed process left half done is cleared. Raises `RunError`; the folder is then free.
        """
        try:
            self._start(recipe, resume=resume, overwrite=overwrite)
        except RunError:
            self.release()
            raise

    def _start(self, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
        try:
            self._lock_folder(resume=resume)
            for folder in (self.checkpoints, self.references):
                recover(folder)
            remove(self.served_model, inside=self.path)
            if self._holds_run():
                self._enter(recipe, resume=resume, overwrite=overwrite)
            self.rollouts.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            write_mark(self._lock, self._mark)
            write_atomically(self.recipe, dump(recipe))
        except OSError as error:
            if resume or is_full(error):
                raise write_error("its recipe", self.path, error) from None
            raise RunError(
                f"the run folder {self.path} cannot be written ({error.strerror or error}): "
                "choose another with run.folder=..."
            ) from None

    def release(self) -> None:
        """Let other runs use the folder, also in this process."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _lock_folder(self, *, resume: bool) -> None:
        """Hold the folder until this process ends, however it ends.

        The mark that stays in it says that the folder belongs to a run. A copy made without it
        may be resumed.
        """
        mark = self.path / RUN_MARK
        is_copy = resume and self._has_recipe() and bool(all_checkpoints(self.checkpoints))
        foreign = not mark.exists() and not is_copy
        if self.path.exists() and foreign and any(self.path.iterdir()):
            raise RunError(
                f"{self.path} holds files that are no run of rlcore: choose another name with "
                "name=..."
            )
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = mark.open("a+", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another process is running in {self.path}: wait for it, or choose another name "
                "with name=..."
            ) from None
        self._mark = read_mark(self.path)
        if not self._mark.started_in:
            self._mark = replace(self._mark, started_in=os.getcwd())

    def note_saved(self, step: int) -> None:
        """Note in the mark that there is a checkpoint; only the main process holds it."""
        if self._lock is not None:
            with self.writing(RUN_MARK):
                self._mark = replace(self._mark, saved=f"step_{step:06d}")
                write_mark(self._lock, self._mark)

    def _check_not_lost(self) -> None:
        """Raise `RunError` where the mark knows of a checkpoint, and there is none any more."""
        if self._mark.saved and not all_checkpoints(self.checkpoints):
            raise RunError(
                f"{self.checkpoints} holds no checkpoint, but {self._mark.saved} was saved there: put it back, "
                "or start again with --overwrite"
            )

    def _has_recipe(self) -> bool:
        """An empty file, as a kill or a full disk may leave it, is no recipe."""
        return self.recipe.exists() and self.recipe.stat().st_size > 0

    def _holds_run(self) -> bool:
        return self._has_recipe() or bool(all_checkpoints(self.checkpoints))

    def _has_results(self) -> bool:
        """Whether the run came to anything; one that failed while it started leaves its recipe alone."""
        written = (self.metrics, self.evals)
        if self._mark.saved or any(path.exists() and path.stat().st_size for path in written):
            return True
        folders = (self.checkpoints, self.rollouts, self.samples, self.pairs)
        return any(path.exists() and any(path.iterdir()) for path in folders)

    def _enter(self, recipe: Recipe, *, resume: bool, overwrite: bool) -> None:
        if resume:
            self._check_not_lost()
            if self._has_recipe():
                check_same_recipe(self.path, recipe, self.evaluations())
        elif overwrite or not self._has_results():
            self._empty()
        else:
            raise RunError(
                f"{self.path} already holds a run: continue it with --resume, replace it with "
                "--overwrite, or choose another name with name=..."
            )

    def _empty(self) -> None:
        """Remove what a run writes, and nothing else that somebody may have put here."""
        for folder in (
            self.rollouts,
            self.evaluated,
            self.best,
            self.checkpoints,
            self.references,
            self.samples,
            self.pairs,
            self.reward_models,
            self.exams,
        ):
            remove(folder, inside=self.path)
        for file in (self.metrics, self.evals, self.starts, self.recipe, self.picture):
            file.unlink(missing_ok=True)
        self._mark = RunMark(started_in=os.getcwd())

    def forget_after(self, *, step: int, stage: int) -> None:
        """Drop what a killed run wrote after its last checkpoint: resuming writes it again."""
        with self.writing("the record without what was lost"):
            keep_rows(self.metrics, lambda row: row.get("step", 0) <= step)
            keep_rows(
                self.evals,
                lambda row: (
                    row.get("stage_index", 0) < stage
                    or ("during" in row and row["stage_index"] == stage and row["step"] <= step)
                ),
            )
            kept = {path for row in self.evaluations() for path in self.evaluation_files(row)}
            for path in self.evaluated.glob("*.jsonl"):
                if path not in kept:
                    path.unlink()
            for written_in, path in self.rollout_files():
                if written_in > step:
                    path.unlink()

    def writing(self, what: str) -> AbstractContextManager[None]:
        """Context in which a write that the disk refuses is raised as a `RunError`."""
        return writing(what, self.path)

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        self._write_rows(self.metrics, [row], mode="a")

    def log_eval(self, row: Mapping[str, Any]) -> None:
        self._write_rows(self.evals, [row], mode="a")

    def log_start(self, row: Mapping[str, Any]) -> None:
        self._write_rows(self.starts, [row], mode="a")

    def rollout_path(self, step: int, rank: int) -> Path:
        """One file a step and process; the main process's has no suffix."""
        suffix = f".rank{rank}" if rank else ""
        return self.rollouts / f"{step:06d}{suffix}.jsonl"

    def write_rollouts(self, step: int, rank: int, rows: Iterable[Mapping[str, Any]]) -> None:
        self._write_rows(self.rollout_path(step, rank), rows)

    def write_evaluation(self, name: str, rank: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """The completions of an evaluation: one file a process, the main process's without a suffix."""
        with self.writing("evaluations"):
            self.evaluated.mkdir(exist_ok=True)
        suffix = f".rank{rank}" if rank else ""
        self._write_rows(self.evaluated / f"{name}{suffix}.jsonl", rows)

    def evaluations(self) -> list[dict[str, Any]]:
        """The rows of eval.jsonl."""
        return read_rows(self.evals)

    def evaluation_files(self, row: Mapping[str, Any]) -> list[Path]:
        """The files with the completions of an evaluation, in the order of the processes."""
        name = row.get("rollouts")
        if name is None:
            return []
        ranks = self.evaluated.glob(f"{name}.rank*.jsonl")
        paths = [self.evaluated / f"{name}.jsonl", *sorted(ranks)]
        return [path for path in paths if path.exists()]

    def new_sample(self, stage: str) -> None:
        """Make the folder of a sample stage, without what an earlier attempt left in it."""
        folder = self.samples / stage
        remove(folder, inside=self.samples)
        with self.writing(f"samples/{stage}"):
            folder.mkdir(parents=True)

    def append_sample(self, stage: str, rank: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """One file a process."""
        self._write_rows(self.samples / stage / f"rank{rank}.jsonl", rows, mode="a")

    def summarise_sample(self, stage: str, metrics: Mapping[str, Any]) -> None:
        with self.writing(f"the summary of samples/{stage}"):
            write_atomically(
                self.samples / stage / "summary.json", json.dumps(metrics, indent=1)
            )

    def write_pairs(self, stage: str, rows: Iterable[Mapping[str, Any]]) -> None:
        with self.writing("pairs"):
            self.pairs.mkdir(exist_ok=True)
        self._write_rows(self.pairs / f"{stage}.jsonl", rows)

    def _write_rows(
        self,
        path: Path,
        rows: Iterable[Mapping[str, Any]],
        *,
        mode: Literal["w", "a"] = "w",
    ) -> None:
        with (
            self.writing(str(path.relative_to(self.path))),
            path.open(mode, encoding="utf-8") as file,
        ):
            file.writelines(_line(row) for row in rows)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a jsonl file; a last line that a kill cut short is left out.

    Raises `RunError` for any other line that is not a JSON object.
    """
    if not path.exists():
        return []
    # Not splitlines(), which would also cut at U+2028, and JSON texts may hold that.
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:  # of the JSON or of its UTF-8
            row = None
        if isinstance(row, dict):
            rows.append(row)
        elif number < len(lines):  # the last line has no line break behind it
            raise RunError(
                f"line {number} of {path} is damaged: it is no JSON object; repair the line or delete it"
            )
    return rows


def keep_rows(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a jsonl file with the rows that `keep` wants; a kill costs none of them."""
    if path.exists():
        kept = [_line(row) for row in read_rows(path) if keep(row)]
        write_atomically(path, "".join(kept))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content at once: a kill leaves the old content or the new."""
    draft = path.with_name(f".draft_{path.name}")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
