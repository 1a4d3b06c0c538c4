"""The power law of a score against the amount of data: scipy's regression of the logarithms, and what lies beyond it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import linregress, t

from rlcore.measures.power_law import extrapolate, fit_power_law

AMOUNTS = [100, 200, 400, 800, 1600, 3200]


def test_an_exact_law_is_recovered_and_holds_beyond_its_points() -> None:
    scores = [0.02 * n**0.35 for n in AMOUNTS]
    law = fit_power_law(AMOUNTS, scores)
    assert (law.scale, law.exponent) == pytest.approx((0.02, 0.35))
    beyond = extrapolate(AMOUNTS, scores, heldout=2)
    assert [point.amount for point in beyond] == [1600, 3200]
    assert [point.relative_error for point in beyond] == pytest.approx([0, 0], abs=1e-12)


def test_a_noisy_law_and_its_interval_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    amounts = np.repeat(AMOUNTS, 3)
    scores = 0.05 * amounts**0.2 * np.exp(0.1 * rng.standard_normal(len(amounts)))
    law = fit_power_law(amounts.tolist(), scores.tolist())
    reference = linregress(np.log(amounts), np.log(scores))
    assert law.exponent == pytest.approx(reference.slope)
    assert law.scale == pytest.approx(np.exp(reference.intercept))
    margin = t.ppf(0.975, len(amounts) - 2) * reference.stderr
    expected = (reference.slope - margin, reference.slope + margin)
    assert law.exponent_interval == pytest.approx(expected, rel=1e-3)


def test_a_score_that_saturates_is_overestimated_beyond_the_fit() -> None:
    """Held out: the largest amount, at which all smaller ones have no say."""
    scores = [0.1, 0.2, 0.4, 0.4, 0.4, 0.4]
    [beyond] = extrapolate(AMOUNTS, scores, heldout=1)
    log_n, log_s = np.log(AMOUNTS[:5]), np.log(scores[:5])
    slope, intercept = np.polyfit(log_n, log_s, 1)
    assert beyond.predicted == pytest.approx(np.exp(intercept) * 3200**slope)
    assert beyond.relative_error > 0.5


@pytest.mark.parametrize(
    "amounts, scores, sentence",
    [
        ([1, 2], [0.0, 0.5], "above 0"),
        ([2, 2], [0.4, 0.5], "two different amounts"),
        ([], [], "above 0"),
        ([1, 2], [0.5], "2 amounts of data, but 1 scores"),
    ],
)
def test_what_has_no_power_law(amounts, scores, sentence) -> None:
    with pytest.raises(ValueError, match=sentence):
        fit_power_law(amounts, scores)
