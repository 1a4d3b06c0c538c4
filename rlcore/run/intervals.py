"""Intervals of what was counted."""

from __future__ import annotations

import math

Z_95 = 1.959964
"""Quantile of the normal distribution for a 95% interval."""


def wilson(proportion: float, n: int) -> tuple[float, float] | None:
    """95% interval of a proportion measured on n draws (Wilson 1927); None where it is no proportion.

    It is right for few draws, and where none or all succeed. For the mean accuracy of several
    completions of each of n tasks it is wider than needed, and never too narrow: a mean of values
    in [0, 1] varies at most as much as a coin.
    """
    if not 0 <= proportion <= 1 or n < 1:
        return None
    centre = proportion + Z_95**2 / (2 * n)
    spread = Z_95 * math.sqrt(proportion * (1 - proportion) / n + Z_95**2 / (4 * n**2))
    scale = 1 + Z_95**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
