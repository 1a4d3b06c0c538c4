"""Teachers: how much data of which skill comes next, given the student's errors (or not)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

Teacher = Callable[[Mapping[str, float], int], dict[str, int]]
"""(accuracy of each skill on the validation set, examples) -> examples of each skill."""


def no_feedback(accuracy: Mapping[str, float], budget: int) -> dict[str, int]:
    """The same for every skill: the paper's control."""
    return divide(dict.fromkeys(accuracy, 1.0), budget)


def errors(accuracy: Mapping[str, float], budget: int) -> dict[str, int]:
    """In proportion to the error rate: a skill that is mastered gets nothing."""
    return divide({skill: 1 - value for skill, value in accuracy.items()}, budget)


def middling(accuracy: Mapping[str, float], budget: int) -> dict[str, int]:
    """In proportion to p (1 - p), plus a twentieth for every skill so that none is given up."""
    return divide({skill: p * (1 - p) + 0.05 for skill, p in accuracy.items()}, budget)


def divide(weights: Mapping[str, float], budget: int) -> dict[str, int]:
    """Whole numbers in proportion to the weights whose sum is the budget, by largest remainders.

    Weights that are all 0 count as equal.
    """
    total = sum(weights.values())
    if not total:
        return divide(dict.fromkeys(weights, 1.0), budget)
    exact = {name: budget * weight / total for name, weight in weights.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[: budget - sum(counts.values())]:
        counts[name] += 1
    return counts


TEACHERS: dict[str, Teacher] = {
    "no feedback": no_feedback,
    "errors": errors,
    "middling": middling,
}
