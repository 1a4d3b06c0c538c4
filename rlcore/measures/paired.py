"""Two evaluations of the same tasks: is the difference more than chance?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000


def paired_bootstrap(
    before: Sequence[float], after: Sequence[float], *, seed: int = 0
) -> tuple[float, float]:
    """95% percentile interval of mean(after - before), tasks resampled in pairs (Efron 1979).

    before, after: [T], mean score of each task, in the same order. A task is the unit: its
    completions are not independent of each other.
    """
    differences = _differences(before, after)
    rng = np.random.default_rng(seed)
    tasks = len(differences)
    # How often each task is drawn; in portions, so that many tasks do not fill the memory.
    means = []
    portion = max(1, 10_000_000 // tasks)
    for start in range(0, RESAMPLES, portion):
        rows = min(portion, RESAMPLES - start)
        drawn = rng.integers(0, tasks, size=(rows, tasks))
        means.append(differences[drawn].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def mcnemar_exact(before: Sequence[float], after: Sequence[float]) -> float:
    """Two-sided p-value of McNemar's exact test: are gained and lost tasks equally likely?

    before, after: [T], 0 or 1, one completion a task. The tasks that changed are coin throws
    under the null hypothesis; those that did not say nothing (McNemar 1947).
    """
    differences = _differences(before, after)
    gained = int((differences > 0).sum())
    lost = int((differences < 0).sum())
    changed = gained + lost
    tail = sum(math.comb(changed, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def _differences(before: Sequence[float], after: Sequence[float]) -> np.ndarray:
    if len(before) != len(after) or not len(before):
        raise ValueError(
            f"pairs are needed, not {len(before)} scores before and {len(after)} after"
        )
    return np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
