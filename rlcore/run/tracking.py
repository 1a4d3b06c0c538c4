"""What a person sees of a run while it goes on, and what is written down: metrics.jsonl, trackers, a bar or plain lines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from rlcore.run.folder import RunFolder
from rlcore.run.metrics import dead_states

if TYPE_CHECKING:
    from rlcore.stages.base import Stage

FIRST_STEPS = 5
"""Dead states are named in the first steps of a stage, where they usually mean a mistake in the set-up."""


@dataclass
class StageLog:
    """First and last row of a stage, for the summary."""

    name: str
    headline: tuple[str, ...]
    """Metrics that are shown; the first is the stage's main number."""
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    done: int = 0
    """Steps that a resumed run had done before."""
    steps: int = 0
    first: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)


class Tracker:
    """Writes on the main process only; the other ranks keep silent."""

    def __init__(self, folder: RunFolder, accelerator: Accelerator, console: Console) -> None:
        self.folder, self.accelerator = folder, accelerator
        self.console = console if accelerator.is_main_process else Console(quiet=True)
        self.stages: list[StageLog] = []
        self._bar: tuple[Progress, TaskID] | None = None
        self._total, self._every = 0, 1

    def say(self, sentence: str) -> None:
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, stage: Stage, *, done: int) -> Iterator[None]:
        """Frame a training stage of which `done` steps are done: a bar on a terminal, about ten lines elsewhere."""
        log = StageLog(name=stage.label, headline=stage.headline, done=done)
        self.stages.append(log)
        self._total, self._every = stage.steps, max(1, stage.steps // 10)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
        )
        try:
            with Progress(
                *columns, console=self.console, disable=not self.console.is_terminal
            ) as progress:
                self._bar = (
                    progress,
                    progress.add_task(log.name, total=stage.steps, completed=done, shown=""),
                )
                yield
        finally:
            self._bar = None
            log.seconds = time.perf_counter() - log.started

    @contextmanager
    def wait(self, what: str) -> Iterator[None]:
        """Show that something without steps is going on."""
        if self.console.is_terminal:
            with self.console.status(what):
                yield
        else:
            yield

    def step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write one optimiser step down and show it."""
        log = self.stages[-1]
        row = {"step": step, "stage": log.name, **metrics}
        log.first = log.first or row
        log.last, log.steps = row, log.steps + 1
        if self.accelerator.is_main_process:
            self.folder.log_metrics(row)
        self.accelerator.log(
            {key: value for key, value in metrics.items() if isinstance(value, int | float)},
            step=step,
        )
        if self._bar is not None:
            progress, bar = self._bar
            progress.update(bar, advance=1, shown=_headline(log.headline, row))
            done = int(progress.tasks[bar].completed)
            if not self.console.is_terminal and (
                log.steps == 1 or done % self._every == 0 or done == self._total
            ):
                self.say(f"{log.name} {done}/{self._total}  {_headline(log.headline, row)}")
        if log.steps <= FIRST_STEPS:
            for sentence in dead_states(row):
                self.say(f"warning, {log.name} step {log.done + log.steps}: {sentence}")

    def evaluated(self, stage: Stage, row: Mapping[str, Any]) -> None:
        """Write one evaluation down and show it."""
        log = self._log_once(stage, row)
        if self.accelerator.is_main_process:
            self.folder.log_eval(row)
        self.accelerator.log({f"eval/{log.name}/accuracy": row["accuracy"]}, step=row["step"])
        self.say(
            f"{log.name}: {_headline(log.headline, row)} of {row['answers']} answers ({row['time/total']:.1f} s)"
        )

    def sampled(self, stage: Stage, row: Mapping[str, Any]) -> None:
        """Write one sample stage down and show it."""
        log = self._log_once(stage, row)
        if self.accelerator.is_main_process:
            self.folder.summarise_sample(row["stage"], row)
        self.say(
            f"{log.name}: {_headline(log.headline, row)}, {row['answers']} answers ({row['time/total']:.1f} s)"
        )

    def _log_once(self, stage: Stage, row: Mapping[str, Any]) -> StageLog:
        """The log of a stage without steps."""
        log = StageLog(
            name=stage.label,
            headline=stage.headline,
            seconds=row["time/total"],
            last=dict(row),
        )
        self.stages.append(log)
        return log

    def summary(self) -> None:
        """Print one line a stage: what it was, how long it took, and its first headline number at its first and last step."""
        table = Table(
            "stage",
            "steps",
            "seconds",
            "measure",
            "first",
            "last",
            title=f"run {self.folder.path}",
            title_justify="left",
        )
        for log in self.stages:
            measure = log.headline[0]
            first = _number(measure, log.first)
            last = _number(measure, log.last)
            table.add_row(
                log.name, str(log.steps or ""), f"{log.seconds:.1f}", _label(measure), first, last
            )
        self.console.print(table)


def _headline(headline: Sequence[str], row: Mapping[str, Any]) -> str:
    return "  ".join(f"{_label(key)} {_number(key, row)}" for key in headline if key in row)


def _label(key: str) -> str:
    return key.removesuffix("/mean")


def _number(key: str, row: Mapping[str, Any]) -> str:
    """Nothing where the row has no such number."""
    return "" if key not in row else f"{row[key]:.1%}" if key == "accuracy" else f"{row[key]:.3g}"
