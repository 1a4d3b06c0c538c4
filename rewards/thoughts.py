"""What a completion says once its thoughts are over."""

from __future__ import annotations


def after_thoughts(completion: str) -> str:
    """The text behind the last `</think>`, up to a `<think>` that is never closed.

    >>> after_thoughts("<think>3? 4!</think>It is 4."), after_thoughts("<think>It may be 4")
    ('It is 4.', '')
    """
    return completion.rpartition("</think>")[2].partition("<think>")[0]
