"""Quality rules for documents: Gopher's (arXiv 2112.11446, table A1) without its language rule."""

from __future__ import annotations

import re
from collections.abc import Callable

_LETTER = re.compile(r"[^\W\d_]")
MIN_LINES = 3
"""Rules about lines apply to documents with more."""


def few_letters(text: str) -> bool:
    """Fewer than half of the visible characters are letters: tables, formulas, markup."""
    num_letters = len(_LETTER.findall(text))
    num_visible = len("".join(text.split()))
    return num_letters < 0.5 * max(1, num_visible)


def odd_words(text: str) -> bool:
    """The mean word is shorter than 3 or longer than 12 characters."""
    words = text.split()
    if not words:
        return True
    mean_length = sum(map(len, words)) / len(words)
    return not 3 <= mean_length <= 12


def repeated_lines(text: str) -> bool:
    """More than 30% of the lines repeat an earlier line (blank ones aside): boilerplate, menus."""
    lines = _lines(text)
    if len(lines) <= MIN_LINES:
        return False
    return len(set(lines)) < 0.7 * len(lines)


def listed(text: str) -> bool:
    """More than 90% of the lines begin with a bullet, or more than 30% end in an ellipsis."""
    lines = _lines(text)
    if len(lines) <= MIN_LINES:
        return False
    bullets = sum(line.startswith(("-", "*", "•")) for line in lines)
    if bullets > 0.9 * len(lines):
        return True
    ellipses = sum(line.endswith(("...", "…")) for line in lines)
    return ellipses > 0.3 * len(lines)


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line]


RULES: tuple[Callable[[str], bool], ...] = (few_letters, odd_words, repeated_lines, listed)


def reason_to_drop(text: str) -> str | None:
    """The name of the first rule that the text breaks; None if it breaks none."""
    for rule in RULES:
        if rule(text):
            return rule.__name__
    return None
