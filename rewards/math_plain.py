"""math-verify alone, as its README uses it, to compare `math` with: `rlcore rewards compare`."""

from __future__ import annotations

from typing import Any

from math_verify import parse, verify
from math_verify.errors import TimeoutException

from rlcore import Verdict, reward


@reward
def math_verify(completion: str, answer: Any, **columns: Any) -> float | Verdict:
    """1 if math-verify, with its defaults, finds the answer in the completion, else 0.

    No convention of `math` holds here, for example on units or on several boxes. Source:
    huggingface/Math-Verify.

    >>> math_verify("So it is $0.5$.", "\\\\frac{1}{2}")
    1.0
    """
    try:
        text = str(answer)
        reference = parse(text if "$" in text or "\\boxed" in text else f"${text}$")
        return float(verify(reference, parse(completion)))
    except TimeoutException:  # derives from BaseException
        return Verdict(value=None, status="timed-out", reason="math-verify took too long")
