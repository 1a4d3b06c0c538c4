"""95% intervals of accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z_95 = 1.959964
"""Quantile of the normal distribution for a 95% interval."""
_SMALL = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
"""Student's for 1 to 10 degrees of freedom."""


def wilson(proportion: float, n: float, z: float = Z_95) -> tuple[float, float] | None:
    """95% interval of a proportion measured on n draws (Wilson 1927); None where it is no proportion.

    It is right for few draws, and where none or all succeed. For the mean accuracy of several
    completions of each of n tasks it is wider than needed, and never too narrow: a mean of values
    in [0, 1] varies at most as much as a coin.
    """
    if not 0 <= proportion <= 1 or n < 1:
        return None
    centre = proportion + z**2 / (2 * n)
    spread = z * math.sqrt(proportion * (1 - proportion) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def mean_interval(scores: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """95% interval of the mean of all scores, over tasks; None where nothing says how it varies.

    scores: [T][n], those of each task. Completions of one task are not independent, so a task is
    the unit (a cluster). One 0 or 1 a task: Wilson's interval. Otherwise the cluster-robust variance
    says how many independent draws the scores are worth, and Wilson's interval is that of so many, with
    Student's quantile for the number of tasks (as Korn and Graubard 1998 do for survey data). Of
    scores outside of [0, 1] it is the mean plus and minus Student's quantile of standard errors.
    """
    tasks = [list(of_task) for of_task in scores if of_task]
    flat = [score for of_task in tasks for score in of_task]
    if not flat:
        return None
    mean = sum(flat) / len(flat)
    is_proportion = all(0 <= score <= 1 for score in flat)
    if len(flat) == len(tasks) and all(score in (0, 1) for score in flat):
        return wilson(mean, len(tasks))
    if len(tasks) < 2:
        return wilson(mean, 1) if is_proportion else None
    quantile = student_95(len(tasks) - 1)
    deviations = sum((sum(of_task) - mean * len(of_task)) ** 2 for of_task in tasks)
    variance = len(tasks) / (len(tasks) - 1) * deviations / len(flat) ** 2
    if not is_proportion:
        spread = quantile * math.sqrt(variance)
        return mean - spread, mean + spread
    worth = float(len(tasks))
    if variance > 0:
        worth = max(1.0, mean * (1 - mean) / variance)
    return wilson(mean, worth, quantile)


def student_95(degrees: int) -> float:
    """97.5% quantile of Student's t: from a table up to 10 degrees of freedom, then to 1e-4 (Cornish-Fisher)."""
    if degrees <= len(_SMALL):
        return _SMALL[degrees - 1]
    z = Z_95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    fourth = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160
    terms = (first, second, third, fourth)
    return z + sum(term / degrees**i for i, term in enumerate(terms, start=1))
