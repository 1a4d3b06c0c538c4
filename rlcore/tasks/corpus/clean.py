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
    """NFC; one kind of line end and of space; no invisible characters, no lines of blanks; e-mail and IP addresses masked.

    >>> clean("Write to\\u00a0ann@site.org \\r\\n\\r\\n\\r\\nNow.")
    'Write to <email>\\n\\nNow.'
    """
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _LINE_ENDS.sub("\n", _SPACES.sub(" ", _INVISIBLE.sub("", text)))
    text = (
        _ADDRESS.sub("<address>", _EMAIL.sub("<email>", text))
        if "@" in text or "." in text
        else text
    )
    return _BLANK.sub("\n\n", text).strip()


def pieces(text: str, max_chars: int) -> Iterator[str]:
    """The text in parts of at most `max_chars`, cut at the last paragraph break that fits, else a line's end, else a space."""
    start = 0
    while len(text) - start > max_chars:
        window = text[start : start + max_chars]
        breaks = [match.end() for match in _BREAK.finditer(window)]
        cut = breaks[-1] if breaks else max(window.rfind("\n"), window.rfind(" ")) + 1
        cut = cut if cut > max_chars // 4 else max_chars
        yield text[start : start + cut].strip()
        start += cut
    if rest := text[start:].strip():
        yield rest
