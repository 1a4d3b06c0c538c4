"""Rewards on how a policy calls tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlcore import reward


@reward
def tool_format(
    completion: str,
    *,
    messages: Sequence[Mapping[str, Any]],
    finished: bool = True,
    **columns: Any,
) -> float:
    """1 for a conversation with a tool call that worked and none that could not be read, else 0.

    A conversation without a call, one whose only calls name no tool, lack arguments or raise, and
    one that was cut off before its end are 0. Source: the format reward of MaskSearch (arXiv
    2505.20285).

    >>> call = {"function": {"name": "search", "arguments": {"query": "x"}}}
    >>> asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    >>> told = {"role": "tool", "content": "y"}
    >>> tool_format("y", messages=[asked, told, {"role": "assistant", "content": "y"}])
    1.0
    >>> tool_format("y", messages=[{"role": "assistant", "content": "y"}])
    0.0
    """
    malformed = any(message.get("malformed") for message in messages)
    worked = any(
        message["role"] == "tool" and not _is_error(message["content"]) for message in messages
    )
    return float(finished and worked and not malformed)


def _is_error(text: str) -> bool:
    """Whether a tool's reply says that the call failed: a dictionary with the key "error", written by Python or as JSON."""
    return text.startswith(("{'error': ", '{"error": '))
