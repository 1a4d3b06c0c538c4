"""Cleaning: the same characters for the same text, personal data masked, long documents cut."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

_INVISIBLE = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f\u00ad\u200b-\u200f\u2028-\u202e\u2060\ufeff\ufffd]"
)
_SPACES = re.compile(r"[ \t\u00a0\u2000-\u200a\u202f\u3000]+")
_LINE_ENDS = re.compile(r" ?\n ?")
_BLANK = re.compile(r"\n{3,}")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]*\w")
_ADDRESS = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b")
_BREAK = re.compile(r"\n\s*\n")


def clean(text: str) -> str:
    """NFC, one kind of line end and of space, no invisible characters, personal data masked.

    E-mail and IP addresses are masked; several blank lines become one.

    >>> clean("Write to\\u00a0ann@site.org \\r\\n\\r\\n\\r\\nNow.")
    'Write to <email>\\n\\nNow.'
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = unicodedata.normalize("NFC", text)
    text = _INVISIBLE.sub("", text)
    text = _SPACES.sub(" ", text)
    text = _LINE_ENDS.sub("\n", text)
    if "@" in text or "." in text:
        text = _EMAIL.sub("<email>", text)
        text = _ADDRESS.sub("<address>", text)
    return _BLANK.sub("\n\n", text).strip()


def pieces(text: str, max_chars: int) -> Iterator[str]:
    """The text in parts of at most `max_chars`.

    It is cut at the last paragraph break that fits, else at the end of a line, else at a space.
    """
    start = 0
    while len(text) - start > max_chars:
        window = text[start : start + max_chars]
        breaks = [match.end() for match in _BREAK.finditer(window)]
        if breaks:
            cut = breaks[-1]
        else:
            cut = max(window.rfind("\n"), window.rfind(" ")) + 1
        if cut <= max_chars // 4:  # too short a part: cut in the middle of a word instead
            cut = max_chars
        yield text[start : start + cut].strip()
        start += cut
    rest = text[start:].strip()
    if rest:
        yield rest
