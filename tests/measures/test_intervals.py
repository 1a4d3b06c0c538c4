"""Intervals and paired tests, against scipy 1.17 (values computed with it) and simulated coverage."""

from __future__ import annotations

import random
from statistics import NormalDist, fmean, stdev

import numpy as np
import pytest

from rlcore.measures.intervals import mean_interval, student_95, wilson
from rlcore.measures.paired import mcnemar_exact, paired_bootstrap

WILSON = [
    (0, 8, 0.0, 0.3244075649),
    (3, 10, 0.1077912674, 0.6032218525),
    (10, 10, 0.7224672001, 1.0),
    (57, 128, 0.3620552495, 0.5317566051),
    (1, 400, 0.0004414478, 0.0140232851),
]
"""binomtest(right, n).proportion_ci(method="wilson")."""
STUDENT = [(1, 12.7062), (2, 4.30265), (3, 3.18245), (5, 2.57058), (10, 2.22814), (30, 2.04227)]
"""t.ppf(0.975, degrees)."""
MCNEMAR = [(0, 0, 1.0), (1, 0, 1.0), (5, 1, 0.21875), (12, 3, 0.03515625), (8, 8, 1.0),
           (30, 14, 0.022628841205914796)]  # fmt: skip
"""binomtest(gained, gained + lost).pvalue."""


@pytest.mark.parametrize("right, n, low, high", WILSON)
def test_one_completion_a_task_has_wilsons_interval(
    right: int, n: int, low: float, high: float
) -> None:
    scores = [[1.0]] * right + [[0.0]] * (n - right)
    assert mean_interval(scores) == pytest.approx((low, high), abs=1e-7)
    assert wilson(right / n, n) == pytest.approx((low, high), abs=1e-7)


@pytest.mark.parametrize("degrees, quantile", STUDENT)
def test_students_quantile(degrees: int, quantile: float) -> None:
    assert student_95(degrees) == pytest.approx(quantile, abs=1e-4)


def coverage(interval, *, tasks: int, samples: int, draws: int = 800) -> float:
    """Fraction of simulated evaluations whose interval holds the true accuracy; difficulty varies between tasks."""
    rng = random.Random(tasks * 1000 + samples)
    truth = 0.5  # mean of Beta(0.5, 0.5): most tasks are nearly always or never solved
    hits = 0
    for _ in range(draws):
        scores = []
        for _ in range(tasks):
            rate = rng.betavariate(0.5, 0.5)
            scores.append([float(rng.random() < rate) for _ in range(samples)])
        low, high = interval(scores)
        hits += low <= truth <= high
    return hits / draws


@pytest.mark.parametrize("tasks, samples", [(10, 8), (40, 4), (30, 12)])
def test_intervals_over_tasks_hold_the_truth_as_often_as_they_say(tasks: int, samples: int) -> None:
    assert 0.93 < coverage(mean_interval, tasks=tasks, samples=samples) < 0.985


def test_completions_of_a_task_taken_as_independent_give_intervals_that_are_too_narrow() -> None:
    """The usual mistake: the same simulation refuses it."""

    def pooled(scores: list[list[float]]) -> tuple[float, float]:
        flat = [score for of_task in scores for score in of_task]
        return wilson(fmean(flat), len(flat))

    assert coverage(pooled, tasks=40, samples=16) < 0.6


def test_extremes_and_other_ranges() -> None:
    low, high = mean_interval([[1.0] * 4] * 8)
    # Eight tasks that are always solved are eight draws, not 32.
    assert high == 1 and low == pytest.approx(1 - 0.411, abs=0.01)
    assert mean_interval([]) is None and mean_interval([[], []]) is None
    assert mean_interval([[3.0]]) is None
    scores = [[-1.0], [2.0], [5.0], [0.5]]
    low, high = mean_interval(scores)
    values = [s[0] for s in scores]
    assert (high - low) / 2 == pytest.approx(3.18245 * stdev(values) / 2, rel=5e-3)


def pairs(gained: int, lost: int, same: int = 5) -> tuple[list[float], list[float]]:
    before = [0.0] * gained + [1.0] * lost + [1.0] * same
    after = [1.0] * gained + [0.0] * lost + [1.0] * same
    return before, after


@pytest.mark.parametrize("gained, lost, p_value", MCNEMAR)
def test_mcnemars_exact_test(gained: int, lost: int, p_value: float) -> None:
    assert mcnemar_exact(*pairs(gained, lost)) == pytest.approx(p_value)
    assert mcnemar_exact(*pairs(lost, gained, same=500)) == pytest.approx(p_value)


def test_scipy_says_the_same_where_it_is_installed() -> None:
    stats = pytest.importorskip("scipy.stats")
    for gained, lost in ((7, 2), (40, 41), (3, 25)):
        expected = stats.binomtest(gained, gained + lost).pvalue
        assert mcnemar_exact(*pairs(gained, lost)) == pytest.approx(expected)
    rng = np.random.default_rng(3)
    before, after = rng.random(60), rng.random(60)
    ours = paired_bootstrap(list(before), list(after))
    theirs = stats.bootstrap(
        (after - before,), np.mean, method="percentile", n_resamples=10_000, rng=1
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_the_paired_bootstrap_agrees_with_the_normal_interval_of_many_tasks() -> None:
    rng = np.random.default_rng(0)
    before = (rng.random(400) < 0.5).astype(float)
    after = np.where(rng.random(400) < 0.2, 1.0, before)
    low, high = paired_bootstrap(list(before), list(after))
    differences = after - before
    spread = NormalDist().inv_cdf(0.975) * differences.std() / 20
    assert (low, high) == pytest.approx(
        (differences.mean() - spread, differences.mean() + spread), abs=0.006
    )
    # Unpaired, the interval would be wider than what the pairs tell.
    unpaired = NormalDist().inv_cdf(0.975) * np.sqrt(before.var() / 400 + after.var() / 400)
    assert high - low < 1.3 * unpaired
    assert paired_bootstrap(list(before), list(after)) == (low, high)


def test_pairs_are_needed() -> None:
    with pytest.raises(ValueError, match="pairs are needed, not 2 scores before and 1 after"):
        mcnemar_exact([0, 1], [1])
