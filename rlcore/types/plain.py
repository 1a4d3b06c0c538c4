"""Values of any type as JSON holds them: what a task brings must never stop a run when it is written down."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import Any


def plain(value: Any) -> Any:
    """The value in the types of JSON, for records. Equal values give equal results.

    Dates become ISO text, decimals and everything unknown their `str`, sets sorted lists, bytes
    their UTF-8 text or base64.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, Mapping):
        return {whole_text(str(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        return _text_of_bytes(bytes(value))
    if hasattr(value, "tolist"):  # arrays and scalars of numpy and torch
        return plain(value.tolist())
    return whole_text(str(value))


def whole_text(text: str) -> str:
    """The text with pairs of surrogates joined and lone ones replaced: neither UTF-8 nor a tokenizer holds those."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _text_of_bytes(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(value).decode("ascii")
