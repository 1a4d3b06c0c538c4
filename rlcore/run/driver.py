"""Run a recipe: its stages in order, each from what the one before left, in one run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from rich.console import Console

from rlcore.recipe.build_learner import build_policy
from rlcore.recipe.check import check
from rlcore.recipe.schema import Recipe
from rlcore.run import checkpoint
from rlcore.run.ending import interrupted, resume_command, saved_steps
from rlcore.run.folder import RunFolder, read_rows
from rlcore.run.processes import (
    group_settings,
    keep_group,
    layout_named,
    load_in_every_process,
    lost_process_named,
    on_all,
    on_main,
    refuse_other_layouts,
    refuse_sleep_without_gpu,
)
from rlcore.run.servers import server_addresses, silent_servers
from rlcore.run.session import Run
from rlcore.run.shards import read_together
from rlcore.run.shared_files import check_shared
from rlcore.run.trackers import check_trackers, start_trackers
from rlcore.run.tracking import Callback, StepFunction, Tracker
from rlcore.terminal import SafeConsole
from rlcore.types import Task
from rlcore.version import code_version


@dataclass(frozen=True)
class Summary:
    """What a finished run says of itself."""

    recipe: str
    engine: str
    accuracy_before: float | None
    """Of the first evaluation on the task set of the last one; None if there was none."""
    accuracy_after: float | None
    """Of the last evaluation, if there were two on its task set."""
    evaluations: dict[str, dict[str, list[float]]]
    """Task set -> accuracy and mean length in tokens of its evaluations, in order."""
    seconds: float
    run: str


def train(
    recipe: Recipe,
    *,
    callbacks: Sequence[Callback | StepFunction] = (),
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    folder: Path | None = None,
) -> Summary:
    """Run all stages. With `resume`, continue after the last checkpoint (from the start if there is none).

    folder: the run folder; by default the recipe's name in its `run.folder`.
    """
    started = time.perf_counter()
    check_trackers(recipe.run.trackers)
    transformers.utils.logging.disable_progress_bar()  # loading and saving bars would break ours
    folder = RunFolder(folder or Path(recipe.run.folder).expanduser() / recipe.name)
    accelerator = _start_accelerator(recipe, folder)
    tracker = Tracker(folder, accelerator, console or SafeConsole(), callbacks)
    tasks: dict[str, Sequence[Task]] = {}
    for fact in check(recipe, tasks, resumed=resume):
        tracker.say(fact)
    urls = server_addresses(recipe)
    for silent in silent_servers(urls) if accelerator.is_main_process else ():
        tracker.say(
            f"note: no answer yet from {silent}; the first stage that generates waits for it"
        )
    if resume and not folder.path.exists():
        tracker.say(f"there is no run in {folder.path} yet: it is started")
    on_main(accelerator, lambda: folder.start(recipe, resume=resume, overwrite=overwrite))
    run: Run | None = None
    try:
        check_shared(accelerator, recipe, folder.path)
        run = open_run(recipe, folder, accelerator, tracker, tasks)
        if run.cursor.stage == len(recipe.stages):
            tracker.say(
                "this run has ended; stages.<stage>.steps=... gives its last training stage more steps"
            )
        start_trackers(accelerator, recipe, folder)
        with (
            lost_process_named(recipe.run.timeout_s, folder.path),
            run.term.listening(),
            run.saver,
        ):
            while run.cursor.stage < len(recipe.stages):
                recipe.stages[run.cursor.stage].run(run)
    except KeyboardInterrupt as interrupt:
        step = run.cursor.step if run else saved_steps(folder.path)
        raise KeyboardInterrupt(interrupted(folder.path, step)) from interrupt
    except Exception as error:
        _say_how_to_go_on(tracker, folder, error)
        raise
    finally:
        if run:
            run.close()
        accelerator.end_training()
        folder.release()
    tracker.summary()
    return _summary(recipe, folder, round(time.perf_counter() - started, 1))


def _start_accelerator(recipe: Recipe, folder: RunFolder) -> Accelerator:
    """The processes of the run. Raises `RunError` for a layout, or an engine, that cannot be had on them."""
    with layout_named():
        accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),
            log_with=list(recipe.run.trackers) or None,
            project_dir=str(folder.path),
            kwargs_handlers=[group_settings(recipe.run.timeout_s)],
        )
    keep_group()
    refuse_other_layouts(accelerator)
    load_in_every_process(accelerator)
    refuse_sleep_without_gpu(recipe, accelerator)
    return accelerator


def _summary(recipe: Recipe, folder: RunFolder, seconds: float) -> Summary:
    rows = read_rows(folder.evals)
    before, after = accuracies(rows)
    return Summary(
        recipe=recipe.name,
        engine=recipe.engine.use,
        accuracy_before=before,
        accuracy_after=after,
        evaluations=evaluations(rows),
        seconds=seconds,
        run=str(folder.path),
    )


def _say_how_to_go_on(tracker: Tracker, folder: RunFolder, error: Exception) -> None:
    saved = checkpoint.all_checkpoints(folder.checkpoints)
    command = resume_command(folder.path)
    if saved and command not in str(error):
        tracker.say(
            f"the run is kept in {folder.path}; when the cause is mended, go on after "
            f"{saved[-1].name} with: {command}"
        )


def accuracies(rows: Sequence[Mapping[str, Any]]) -> tuple[float | None, float | None]:
    """Accuracy of the first and the last evaluation on the same task set.

    The second is None where the last evaluation's task set was evaluated only once. Evaluations
    between steps of a training stage do not count; of several task sets the first of the stage does.
    """
    rows = [row for row in rows if "during" not in row]
    if not rows:
        return None, None
    of_last = [row for row in rows if row.get("stage_index") == rows[-1].get("stage_index")]
    eval_set = of_last[0]["eval_set"] if "stage_index" in rows[-1] else rows[-1]["eval_set"]
    same = [row["accuracy"] for row in rows if row["eval_set"] == eval_set]
    return same[0], same[-1] if len(same) > 1 else None


def open_run(
    recipe: Recipe,
    folder: RunFolder,
    accelerator: Accelerator,
    tracker: Tracker,
    tasks: Mapping[str, Sequence[Task]],
) -> Run:
    """The run as its last checkpoint left it, or a new one."""
    saved_runs = checkpoint.all_checkpoints(folder.checkpoints)
    last = saved_runs[-1] if saved_runs else None
    cursor, saved = read_together(last, accelerator) if last else (checkpoint.Cursor(), {})
    _reopen(recipe, cursor, saved)
    on_all(accelerator, lambda: cursor.pass_evaluated(recipe.stages, folder.evaluations()))
    on_main(accelerator, lambda: _tidy(recipe, folder, cursor))
    rows = len(read_rows(folder.metrics))
    if rows < cursor.step:
        tracker.say(
            f"warning: metrics.jsonl has {rows} rows of {cursor.step} steps: some were lost"
        )
    policy = build_policy(recipe, last, accelerator)
    origin = (
        f"resumed after step {cursor.step}"
        if last
        else policy.model.name_or_path or f"from scratch ({recipe.model.config['model_type']})"
    )
    trained = sum(p.numel() for p in policy.module.parameters() if p.requires_grad)
    share = f" ({trained / 1e6:.2f}M trained)" if policy.adapter else ""
    tracker.say(
        f"model: {policy.num_parameters / 1e6:.2f}M parameters{share}, {recipe.model.dtype}, {origin}; "
        f"{accelerator.num_processes} process(es) on {accelerator.device.type}"
    )
    return Run(
        recipe,
        folder,
        accelerator=accelerator,
        policy=policy,
        tracker=tracker,
        cursor=cursor,
        saved=saved or None,
        tasks=tasks,
    )


def _tidy(recipe: Recipe, folder: RunFolder, cursor: checkpoint.Cursor) -> None:
    """Drop what was written after the last checkpoint, and checkpoints that are too many."""
    folder.forget_after(step=cursor.step, stage=cursor.stage)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    row = {"after_step": cursor.step, "stage_index": cursor.stage, "time": now}
    folder.log_start({**row, **code_version()})
    with folder.writing("the list of checkpoints"):
        # Only now: the last one has been read, and is complete.
        checkpoint.keep_newest(folder.checkpoints, recipe.run.keep_checkpoints)


def _reopen(recipe: Recipe, cursor: checkpoint.Cursor, saved: dict[str, Any]) -> None:
    """Go back into the stage that has just ended where the recipe now gives it more steps, else forget its learner."""
    before = recipe.stages[cursor.stage - 1]
    if cursor.ended_after is None:
        return
    if "learner" in saved and getattr(before, "steps", 0) > cursor.ended_after:
        cursor.stage, cursor.stage_step = cursor.stage - 1, cursor.ended_after
    else:
        cursor.curriculum, learner = {}, saved.pop("learner", {})
        if "average" in learner:
            saved["average"] = learner["average"]
    cursor.ended_after = None


def evaluations(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Accuracy and mean length of the evaluations of each task set, those between steps of a stage left out."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if "during" in row:
            continue
        columns = values.setdefault(row["eval_set"], {"accuracy": [], "length": []})
        columns["accuracy"].append(row["accuracy"])
        columns["length"].append(row["completions/length/mean"])
    return values
