"""What is printed for a person: text of models and files cannot steer the terminal.

An escape sequence in a completion could clear the screen, set the window's title or hide the lines
before it. Control characters are shown as the pictures that Unicode has for them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_KEPT = "\n\t"
_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in _KEPT}
_PICTURES[0x7F] = 0x2421
# C1 controls, which some terminals obey, and characters that turn the direction of the text.
_OTHERS = [*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
_PICTURES.update(dict.fromkeys(_OTHERS, 0xFFFD))


def visible(text: str) -> str:
    """The text with every control character but line breaks and tabs as a visible one."""
    return text.translate(_PICTURES)


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
