"""What averages are good for, on toys whose truth is known: Free Lunch, and data ablation by averaging."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from rlcore.merging.rules import mean


def average(models: list[np.ndarray]) -> np.ndarray:
    return mean()("", [torch.from_numpy(model) for model in models], None).numpy()


# Free Lunch: checkpoints of one run ----------------------------------------------------------


def noisy_descent(seed: int, steps: int = 400, rate: float = 0.2) -> list[np.ndarray]:
    """Weights along stochastic descent of |w|^2 / 2 from (5, 5, 5, 5), with unit noise in each gradient."""
    rng = np.random.default_rng(seed)
    weights, path = np.full(4, 5.0), []
    for _ in range(steps):
        weights = weights - rate * (weights + rng.normal(size=4))
        path.append(weights)
    return path


def test_the_average_of_checkpoints_varies_less_over_seeds_than_the_last() -> None:
    """Checkpoints at intervals after the warm-up. At the end w is AR(1) with correlation 0.8 a step: 0.8^30 = 0.001 between
    checkpoints, so that the mean of ten has about a tenth of the variance of one."""
    last, averaged = [], []
    for seed in range(60):
        saved = noisy_descent(seed)[129::30]
        assert len(saved) == 10
        last.append(saved[-1])
        averaged.append(average(saved))
    ratio = np.var(averaged, axis=0).mean() / np.var(last, axis=0).mean()
    assert 0.05 < ratio < 0.2, ratio
    assert abs(np.var(last, axis=0).mean() - 0.2 / (2 - 0.2)) < 0.02, "the stationary variance, rate / (2 - rate)"


def test_the_mean_of_all_is_the_streaming_mean() -> None:
    saved = noisy_descent(0)[100::50]
    running = np.zeros(4)
    for count, weights in enumerate(saved, start=1):
        running = running + (weights - running) / count
    assert np.allclose(average(saved), running, rtol=1e-12)


# data ablation: one model a partition --------------------------------------------------------

WORDS = 12


def partition(number: int, rng: np.random.Generator) -> np.ndarray:
    """Counts [WORDS, WORDS] of pairs of words, each partition with a language of its own."""
    language = np.random.default_rng(number).dirichlet(np.full(WORDS, 0.3), size=WORDS)
    return np.stack([rng.multinomial(40, row) for row in language]).astype(float)


def trained(counts: np.ndarray, start: np.ndarray, steps: int = 60, rate: float = 0.5) -> np.ndarray:
    """Logits of a bigram model after descent on the cross-entropy of the counts."""
    logits = torch.tensor(start, requires_grad=True)
    target = torch.from_numpy(counts / counts.sum(1, keepdims=True))
    for _ in range(steps):
        loss = -(target * logits.log_softmax(-1)).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        logits = (logits - rate * gradient).detach().requires_grad_()
    return logits.detach().numpy()


def perplexity(logits: np.ndarray, counts: np.ndarray) -> float:
    logp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(np.exp(-(counts * logp).sum() / counts.sum()))


def ranks(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values)).astype(float)


def test_averaged_models_rank_the_unions_of_their_data() -> None:
    """Four partitions, eleven unions of two to four; the models of the partitions never see the text they are judged by."""
    rng = np.random.default_rng(7)
    start = rng.normal(size=(WORDS, WORDS))
    data = [partition(number, rng) for number in range(4)]
    judged_by = 0.6 * partition(0, rng) + 0.3 * partition(1, rng) + 0.1 * partition(5, rng)
    models = [trained(counts, start) for counts in data]
    predicted, truth, unrelated = [], [], []
    elsewhere = [trained(counts, rng.normal(scale=3.0, size=start.shape)) for counts in data]
    for size in (2, 3, 4):
        for chosen in combinations(range(4), size):
            predicted.append(perplexity(average([models[i] for i in chosen]), judged_by))
            unrelated.append(perplexity(average([elsewhere[i] for i in chosen]), judged_by))
            truth.append(perplexity(trained(sum(data[i] for i in chosen), start), judged_by))
    assert len(truth) == 11
    correlation = np.corrcoef(ranks(predicted), ranks(truth))[0, 1]
    assert correlation > 0.9, correlation
    assert np.mean(predicted) < np.mean(unrelated), "a common start is part of the method"
