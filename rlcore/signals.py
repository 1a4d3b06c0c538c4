"""Signals that ask a process to end: SIGTERM from a scheduler, SIGHUP where its terminal was closed."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], Any]


def end_on_signals() -> None:
    """From now on both end this process as Ctrl-C does, by `KeyboardInterrupt`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    on_hang_up(signal.default_int_handler)


def on_hang_up(handler: Handler) -> Any:
    """Call `handler` for the first SIGHUP; the handler that was set before.

    A closed terminal is told by the shell and by the kernel: further ones are ignored. All are,
    where the process was started with `nohup`.
    """

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        handler(number, frame)

    before = signal.getsignal(signal.SIGHUP)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, first)
    return before
