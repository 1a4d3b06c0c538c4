"""How well a reward model orders pairs, and whether its scores mean the probabilities that they
say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

BINS = 10
"""Bins of equal width over the confidence, 0.5 to 1."""


def comparison_metrics(differences: Sequence[float]) -> dict[str, Any]:
    """Accuracy and calibration of score differences, better minus worse completion, one a
    comparison.

    Under Bradley-Terry p = sigmoid(difference) is the probability that the better one is
    preferred.
    accuracy: fraction of differences above 0; equal scores count one half.
    brier: mean of (1 - p)^2, 0.25 for a model that says nothing.
    ece: expected calibration error, the mean over comparisons of |accuracy - confidence| of
    their bin, where confidence is max(p, 1 - p).
    bins: [confidence, accuracy, comparisons] of each bin that is not empty.
    """
    if not differences:
        raise ValueError("there are no comparisons")
    rights = [0.5 if value == 0 else float(value > 0) for value in differences]
    # sigmoid(|x|), which cannot overflow
    confidences = [1 / (1 + math.exp(-abs(value))) for value in differences]
    misses = [
        (1 - confidence if value > 0 else confidence) ** 2
        for value, confidence in zip(differences, confidences, strict=True)
    ]
    of_bin: dict[int, list[int]] = {}
    for index, confidence in enumerate(confidences):
        number = min(BINS - 1, int((confidence - 0.5) * 2 * BINS))
        of_bin.setdefault(number, []).append(index)
    bins = []
    for number in sorted(of_bin):
        members = of_bin[number]
        confidence = sum(confidences[index] for index in members) / len(members)
        accuracy = sum(rights[index] for index in members) / len(members)
        bins.append([confidence, accuracy, len(members)])
    total = len(differences)
    return {
        "accuracy": sum(rights) / total,
        "brier": sum(misses) / total,
        "ece": sum(n * abs(accuracy - confidence) for confidence, accuracy, n in bins) / total,
        "comparisons": total,
        "bins": bins,
    }
