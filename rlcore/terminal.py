"""What is printed for a person: text of models and files cannot steer the terminal, and nobody has to read it.

An escape sequence in a completion could clear the screen, set the window's title or hide the lines
before it. Control characters are shown as the pictures that Unicode has for them. A terminal that
was closed, a pipe whose reader has ended and a full disk below a log cost what is printed, not the
run.
"""

from __future__ import annotations

import contextlib
import errno
import os
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from rlcore.errors import RlcoreError

_KEPT = "\n\t"
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in _KEPT}
_PICTURES[0x7F] = 0x2421
# C1 controls, which some terminals obey, and characters that turn the direction of the text.
_OTHERS = [*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_PICTURES.update(dict.fromkeys(_OTHERS, 0xFFFD))


def visible(text: str) -> str:
    """The text with every control character but line breaks and tabs as a visible one."""
    return text.translate(_PICTURES)


@contextlib.contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Context of a script: an `RlcoreError` ends it with status 2 and its sentence in place of a traceback."""
    try:
        yield
    except RlcoreError as error:
        print(visible(f"error: {error}"), file=sys.stderr)
        raise SystemExit(2) from None


class SafeConsole(Console):
    """A console whose own colours work, while those in the text it is given are shown as text."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)


def make_console(**settings: Any) -> SafeConsole:
    """The console of a command: as wide as the terminal, or 160 columns where there is none."""
    return (
        SafeConsole(**settings) if sys.stdout.isatty() else SafeConsole(width=160, **settings)
    )


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Context in which a refused write to standard output or standard error raises nothing."""
    before = sys.stdout, sys.stderr
    streams = [_LastingStream(stream) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in streams:
            stream.end()
        sys.stdout, sys.stderr = before


class _LastingStream:
    """A text stream; what it cannot write is dropped."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._refused(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._refused(error)

    def end(self) -> None:
        """Flush for the last time: what is still refused would change the exit status."""
        try:
            self._stream.flush()
        except OSError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _refused(self, error: OSError) -> None:
        # Nobody will ever read it. A full disk may have space again.
        if error.errno in (errno.EPIPE, errno.EIO):
            self._drop()

    def _drop(self) -> None:
        """From now on all goes nowhere, also what is buffered."""
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


BARS = "▁▂▃▄▅▆▇█"


def sparkline(
    values: Sequence[float],
    *,
    low: float | None = None,
    high: float | None = None,
    width: int = 48,
) -> str:
    """The values as a line of bars, at most `width` of them; each then stands for the mean of some neighbours."""
    size = -(-len(values) // width)
    means = [
        statistics.fmean(values[start : start + size]) for start in range(0, len(values), size)
    ]
    low = min(means) if low is None else low
    high = max(means) if high is None else high
    spread = high - low
    if not spread:
        return BARS[0] * len(means)
    heights = [round((mean - low) / spread * (len(BARS) - 1)) for mean in means]
    return "".join(BARS[min(len(BARS) - 1, max(0, height))] for height in heights)
