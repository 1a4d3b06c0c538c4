"""What worker processes print: passed on to the run's stderr, up to a bound."""

from __future__ import annotations

import os
import select
import threading

MOST_BYTES = 1_000_000
"""Of one worker, over all its restarts: a plugin that prints each completion fills a disk."""
_CONTROLS = bytes(range(32)) + b"\x7f"
_VISIBLE = bytes.maketrans(
    _CONTROLS, bytes(c if c in b"\t\n\r" else ord("?") for c in _CONTROLS)
)


class Output:
    """Copies the output of a worker's processes, one after the other, to stderr.

    Control characters are replaced: what a plugin prints may be a completion.
    """

    def __init__(self) -> None:
        self._left = MOST_BYTES
        self._stop: threading.Event | None = None

    def follow(self, descriptor: int) -> None:
        """Copy from this end of a pipe, which is closed in the end, and no more from the last."""
        self.end()
        self._stop = threading.Event()
        copying = threading.Thread(
            target=self._copy, args=(descriptor, self._stop), daemon=True
        )
        copying.start()

    def end(self) -> None:
        """Stop within half a second, also if somebody still holds the other end."""
        if self._stop is not None:
            self._stop.set()

    def _copy(self, descriptor: int, stop: threading.Event) -> None:
        try:
            while not stop.is_set() or select.select([descriptor], [], [], 0)[0]:
                if not select.select([descriptor], [], [], 0.5)[0]:
                    continue
                text = os.read(descriptor, 65536)
                if not text:
                    return
                self._pass_on(text)
                if stop.is_set() and self._left <= 0:
                    return
        finally:
            os.close(descriptor)

    def _pass_on(self, text: bytes) -> None:
        if self._left <= 0:
            return
        shown = text[: self._left].translate(_VISIBLE)
        self._left -= len(shown)
        if self._left <= 0:
            shown += b"\n(a worker printed over 1 MB: the rest is dropped)\n"
        try:
            os.write(2, shown)
        except OSError:
            self._left = 0
