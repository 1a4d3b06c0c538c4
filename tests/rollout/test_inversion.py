"""Tokens drawn by inversion against the running sum of the whole row in float64."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from rlcore.rollout.inversion import draw_by_inversion


def drawn_from_whole_rows(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    cumulative = probabilities.double().cumsum(-1)
    target = uniforms[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


@pytest.mark.parametrize("vocabulary", [2, 255, 256, 257, 1_000, 49_152])
def test_tokens_are_those_of_one_sum_over_the_row(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    rows = 64 if vocabulary > 10_000 else 2_000
    logits = 3 * torch.randn(rows, vocabulary, generator=generator)
    uniforms = torch.rand(rows, dtype=torch.float64, generator=generator)
    probabilities = logits.softmax(-1)
    tokens = draw_by_inversion(probabilities, uniforms)
    # a number within the rounding of a block's float32 sum may fall on the other side
    assert (tokens != drawn_from_whole_rows(probabilities, uniforms)).float().mean() < 0.002


def test_frequencies_are_the_probabilities() -> None:
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.randn(700, generator=generator).mul(2).softmax(-1)
    draws = 200_000
    uniforms = torch.rand(draws, dtype=torch.float64, generator=generator)
    counts = torch.zeros(700)
    for part in uniforms.split(10_000):
        tokens = draw_by_inversion(probabilities.expand(len(part), -1), part)
        counts += torch.bincount(tokens, minlength=700)
    common = probabilities * draws >= 20
    expected = probabilities[common] * draws
    statistic = ((counts[common] - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, int(common.sum())) > 1e-3


@pytest.mark.parametrize("uniform", [0.0, 1e-300, 0.5, 1 - 2**-53])
def test_a_token_without_probability_is_never_drawn(uniform: float) -> None:
    probabilities = torch.zeros(4, 600)
    probabilities[0, 300] = 1.0  # alone
    probabilities[1, [255, 256, 511]] = torch.tensor([0.3, 0.3, 0.4])
    probabilities[2, [0, 599]] = torch.tensor([1e-30, 1.0])
    probabilities[3, [5, 6]] = torch.tensor([1e-38, 1e-38])  # a row that was not normalised
    tokens = draw_by_inversion(probabilities, torch.full((4,), uniform, dtype=torch.float64))
    assert (probabilities.gather(1, tokens[:, None]) > 0).all()


def test_a_row_that_is_no_number_gives_a_token_of_the_vocabulary() -> None:
    probabilities = torch.full((2, 300), math.nan)
    probabilities[0] = 1 / 300
    tokens = draw_by_inversion(probabilities, torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert tokens[0] in (149, 150)
    assert 0 <= tokens[1] < 300
