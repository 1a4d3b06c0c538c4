"""How a run ends before its time: what a signal asks for, and the sentence that says how to go on.

SIGTERM announces the end of a machine or a job (preemption), SIGHUP that the terminal was closed. By
default they end the run at once, as Ctrl-C does. With `run.save_on_term_s` the run goes on to the
end of its step, saves a checkpoint and ends; it ends without one where the step takes longer than
these seconds.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlcore.run.checkpoint import all_checkpoints
from rlcore.signals import on_hang_up


class TermRequest:
    """Whether SIGTERM or SIGHUP has come."""

    def __init__(self, grace_s: float | None) -> None:
        self.grace_s = grace_s
        self.received = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, SIGTERM and SIGHUP are noted, if a grace period was given.

        `KeyboardInterrupt` is raised when the period is over, and for a second SIGTERM.
        """
        if self.grace_s is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._end_soon),
            signal.SIGALRM: signal.signal(signal.SIGALRM, signal.default_int_handler),
            signal.SIGHUP: on_hang_up(self._note),
        }
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
                # It has come: a second one must not disturb the ending.
                del before[signal.SIGHUP]
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end_soon(self, *_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self._note()

    def _note(self, *_: Any) -> None:
        assert self.grace_s is not None
        if not self.received:
            self.received = True
            signal.setitimer(signal.ITIMER_REAL, self.grace_s)


def saved_steps(folder: Path) -> int:
    """Steps in the last checkpoint of a run folder, 0 if there is none."""
    saved = all_checkpoints(folder / "checkpoints")
    return int(saved[-1].name.removeprefix("step_")) if saved else 0


def interrupted(folder: Path, step: int) -> str:
    """The sentence for a run that was interrupted after `step` steps."""
    lost = step - saved_steps(folder)
    if step == 0:
        return f"interrupted before the first step; go on with: {resume_command(folder)}"
    if lost <= 0:
        kept = "all of them are saved"
    elif lost == step:
        kept = "none of them is saved"
    else:
        kept = f"the last {lost} are not saved and will be made again"
    return f"interrupted after {step} steps, {kept}; go on with: {resume_command(folder)}"


def resume_command(folder: Path) -> str:
    """What a person types to go on."""
    processes = os.environ.get("WORLD_SIZE", "1")
    start = "rlcore"
    if processes != "1":
        start = f"torchrun --nproc_per_node {os.environ.get('LOCAL_WORLD_SIZE', processes)} -m rlcore"
    return f"{start} train {shlex.quote(os.path.abspath(folder))} --resume"
