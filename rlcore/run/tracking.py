"""What a person sees of a run, and where it is logged: metrics.jsonl, trackers, a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

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

from rlcore.run.dead_states import FIRST_STEPS, dead_states, loss_meaning
from rlcore.run.evaluation_rows import EVALUATION_KEYS, SHOWN_KEYS, num_unscored, proportion
from rlcore.run.folder import RunFolder
from rlcore.run.tracker_tables import log_table
from rlcore.terminal import SafeConsole, sparkline

if TYPE_CHECKING:
    from rlcore.stages.base import Stage


class Callback(Protocol):
    """What is called on the main process while a run goes on; methods that are absent are not called."""

    def on_step(self, step: int, metrics: dict[str, Any]) -> None:
        """After every step of a training stage. step: since the run began. metrics: the row of metrics.jsonl."""

    def on_evaluation(self, row: dict[str, Any]) -> None:
        """After every evaluation. row: that of eval.jsonl."""


LIVE_BARS = 16
"""Characters of a sparkline beside the progress bar."""

StepFunction = Callable[[int, dict[str, Any]], None]
"""A callback that is a plain function is its `on_step`."""


@dataclass
class StageLog:
    """First and last row of a stage, for the summary."""

    name: str
    kind: str
    headline: tuple[str, ...]
    """Metrics that are shown; the first is the stage's main number."""
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    done: int = 0
    """Steps that a resumed run had done before."""
    steps: int = 0
    first: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    numbers: list[float] = field(default_factory=list)
    """The main number after each step."""


class Tracker:
    """Writes on the main process only; the other ranks are silent."""

    def __init__(
        self,
        folder: RunFolder,
        accelerator: Accelerator,
        console: Console,
        callbacks: Sequence[Callback | StepFunction] = (),
    ) -> None:
        self._callbacks = list(callbacks)
        self.folder = folder
        self.accelerator = accelerator
        self.console = console if accelerator.is_main_process else SafeConsole(quiet=True)
        self.stages: list[StageLog] = []
        self.ending = ""
        """Where completions end, as a sentence for those who wonder why none did."""
        self._bar: tuple[Progress, TaskID] | None = None
        self._total: int | None = None
        """Steps of the stage; None where it does not say."""
        self._every = 1
        self._accuracies: list[float] = []
        """Of this process's evaluations, of several task sets of the first."""

    def say(self, sentence: str) -> None:
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, stage: Stage, *, done: int) -> Iterator[None]:
        """Frame a training stage of which `done` steps are done.

        It shows a bar on a terminal, and about ten lines elsewhere.
        """
        log = StageLog(name=stage.label, kind=stage.kind, headline=stage.headline, done=done)
        self.stages.append(log)
        self._total = getattr(stage, "steps", None)
        self._every = max(1, (self._total or 100) // 10)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}"),
        )
        try:
            is_hidden = not self.console.is_terminal
            with Progress(*columns, console=self.console, disable=is_hidden) as progress:
                bar = progress.add_task(log.name, total=self._total, completed=done, shown="")
                self._bar = (progress, bar)
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
        """Log one step and show it."""
        log = self.stages[-1]
        row = {"step": step, "stage": log.name, **metrics}
        log.first = log.first or row
        log.last = row
        log.steps += 1
        if log.headline and log.headline[0] in row:
            log.numbers.append(row[log.headline[0]])
        if self.accelerator.is_main_process:
            self.folder.log_metrics(row)
        numbers = {
            key: value for key, value in metrics.items() if isinstance(value, int | float)
        }
        self.accelerator.log(numbers, step=step)
        self._show_step(log, row)
        self._call("on_step", step, row)
        meaning = loss_meaning(log.kind)
        if log.steps == 1 and "loss" in row and meaning is not None:
            self.say(f"note, {log.name}: {meaning}")
        if log.steps <= FIRST_STEPS:
            for sentence in dead_states(row, self.ending, log.first):
                self.say(f"warning, {log.name} step {log.done + log.steps}: {sentence}")

    def _call(self, event: str, *arguments: Any) -> None:
        """Call the callbacks that handle an event, on the main process."""
        if not self.accelerator.is_main_process:
            return
        for callback in self._callbacks:
            method = getattr(callback, event, None)
            if method is None and event == "on_step" and callable(callback):
                method = callback
            if method is not None:
                method(*arguments)

    def _show_step(self, log: StageLog, row: Mapping[str, Any]) -> None:
        if self._bar is None:
            return
        progress, bar = self._bar
        headline = _headline(log.headline, row)
        progress.update(bar, advance=1, shown=_live(log, row, self._accuracies))
        if self.console.is_terminal:
            return
        done = int(progress.tasks[bar].completed)
        if log.steps == 1 or done % self._every == 0 or done == self._total:
            of = f"/{self._total}" if self._total else ""
            self.say(f"{log.name} {done}{of}  {headline}")

    def evaluated(self, stage: Stage, row: Mapping[str, Any], *, within: bool = False) -> None:
        """Log one evaluation and show it. within: between two steps of a training stage."""
        name = stage.label_of(row["eval_set"])
        if row["eval_set"] == stage.task_sets[0]:
            self._accuracies.append(row["accuracy"])
        if not within:
            self._log_once(stage, row, name)
        # A row stands for all files of its evaluation: a resumed run does not make it again.
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            self.folder.log_eval(row)
        numbers = {key: row[key] for key in row if EVALUATION_KEYS.match(key)}
        self.accelerator.log(
            {f"eval/{name}/{key}": value for key, value in numbers.items()}, step=row["step"]
        )
        shown = [f"accuracy {_with_interval(row, 'accuracy')}"]
        for key in ("greedy/accuracy", *row):
            if key in numbers and SHOWN_KEYS.match(key):
                shown.append(f"{_label(key)} {proportion(row[key])}")
        where = f" after step {row['step']}" if within else ""
        completions = row["completions"]
        unscored = num_unscored(row)
        scored = f"{completions - unscored} scored of " if unscored else ""
        best = ", the best so far" if row.get("is_best") else ""
        self.say(
            f"{name}{where}: {'  '.join(dict.fromkeys(shown))} of {scored}{completions} completions "
            f"({row['time/total']:.1f} s){best}"
        )
        if unscored:
            self.say(
                f"warning, {name}: {unscored} of {completions} completions have no score and count in no number: "
                f"'rlcore rollouts {self.folder.path} --eval {stage.label} --failed' has the reasons"
            )
        self._call("on_evaluation", dict(row))

    def rollouts(self, name: str, rows: Sequence[Mapping[str, Any]], step: int) -> None:
        """Show the trackers the first completions of this process: `rollouts`, or `eval/<stage>/rollouts`."""
        if self.accelerator.is_main_process and self.accelerator.trackers:
            log_table(self.accelerator.trackers, name, rows, step)

    def sampled(self, stage: Stage, row: Mapping[str, Any]) -> None:
        """Log one sample stage and show it."""
        log = self._log_once(stage, row, stage.label)
        if self.accelerator.is_main_process:
            self.folder.summarise_sample(row["stage"], row)
        seconds = f"{row['time/total']:.1f} s"
        headline = _headline(log.headline, row)
        self.say(f"{log.name}: {headline}, {row['completions']} completions ({seconds})")

    def _log_once(self, stage: Stage, row: Mapping[str, Any], name: str) -> StageLog:
        """The log of a stage without steps."""
        log = StageLog(
            name=name,
            kind=stage.kind,
            headline=stage.headline,
            seconds=row["time/total"],
            last=dict(row),
        )
        self.stages.append(log)
        return log

    def summary(self) -> None:
        """Print a table with one line a stage.

        It has the stage's seconds, and its first headline metric at the first and the last step.
        """
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
                log.name,
                str(log.steps or ""),
                f"{log.seconds:.1f}",
                _label(measure),
                first,
                last,
            )
        self.console.print(table)


def _headline(headline: Sequence[str], row: Mapping[str, Any]) -> str:
    shown = [f"{_label(key)} {_number(key, row)}" for key in headline if key in row]
    return "  ".join(shown)


def _live(log: StageLog, row: Mapping[str, Any], accuracies: Sequence[float]) -> str:
    """What stands beside the bar on a terminal: the headline, tokens a second, and how the main numbers developed."""
    parts = [_headline(log.headline, row)]
    for key in ("tokens_per_s/generated", "tokens_per_s/trained"):
        if key in row:
            parts.append(f"{row[key]:,.0f} tokens/s")
            break
    if log.numbers:
        parts.append(f"{_label(log.headline[0])} {sparkline(log.numbers, width=LIVE_BARS)}")
    if accuracies:
        parts.append(f"accuracy {sparkline(accuracies, low=0.0, high=1.0, width=LIVE_BARS)}")
    return "  ".join(parts)


def _with_interval(row: Mapping[str, Any], key: str) -> str:
    """The proportion and its 95% interval, where there is one: `62.5% (48.1% to 75.0%)`."""
    interval = row.get("intervals", {}).get(key)
    text = proportion(row[key])
    return f"{text} ({' to '.join(map(proportion, interval))})" if interval else text


def _label(key: str) -> str:
    return key.removesuffix("/mean")


def _number(key: str, row: Mapping[str, Any]) -> str:
    """The number as it is shown; empty where the row has none."""
    if key not in row:
        return ""
    if key == "accuracy":
        return proportion(row[key])
    return f"{row[key]:.3g}"
