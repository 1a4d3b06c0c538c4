"""Measures over k of a task's n completions, against enumeration of all k-subsets."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import fmean

import pytest

from rlcore.measures.best_of_n import best_of_n
from rlcore.measures.capability import ability, by_difficulty
from rlcore.measures.expected_maximum import expected_maximum, harm_probability
from rlcore.measures.majority import majority_at_k
from rlcore.measures.pass_at_k import pass_at_k, powers_up_to


def all_counts(largest: int = 7) -> list[tuple[int, int, int]]:
    return [
        (n, right, k)
        for n in range(1, largest + 1)
        for right in range(n + 1)
        for k in range(1, n + 1)
    ]


def differs_from_enumeration(estimate: Callable[[int, int, int], float]) -> list:
    """Cases in which an estimate of pass@k is not the fraction of k-subsets with a right completion."""
    wrong = []
    for n, right, k in all_counts():
        completions = [1] * right + [0] * (n - right)
        truth = fmean(max(subset) for subset in combinations(completions, k))
        if estimate(n, right, k) != pytest.approx(truth, abs=1e-12):
            wrong.append((n, right, k))
    return wrong


def test_pass_at_k_is_the_fraction_of_all_subsets() -> None:
    assert differs_from_enumeration(pass_at_k) == []


@pytest.mark.parametrize(
    "mistake",
    [
        lambda n, right, k: 1 - (1 - right / n) ** k,
        lambda n, right, k: float(right > 0),
        lambda n, right, k: min(1.0, k * right / n),
        lambda n, right, k: 1 - math.comb(n - right, k) / math.comb(n, k) if right < n else 0.0,
    ],
    ids=["with-replacement", "any-of-n", "linear", "all-right-is-0"],
)
def test_usual_mistakes_are_not_pass_at_k(mistake: Callable[[int, int, int], float]) -> None:
    assert differs_from_enumeration(mistake)


def test_pass_at_k_asks_for_enough_completions() -> None:
    with pytest.raises(ValueError, match="pass@4 needs at least 4 completions of a task, not 3"):
        pass_at_k(3, 1, 4)
    assert powers_up_to(1) == [1] and powers_up_to(8) == [1, 2, 4, 8]
    assert powers_up_to(12) == [1, 2, 4, 8, 12]


def voted(answers: Sequence[str | None], rights: Sequence[float], k: int) -> float:
    """maj@k by enumeration."""
    outcomes = []
    for subset in combinations(range(len(answers)), k):
        votes = Counter(answers[i] for i in subset if answers[i] is not None)
        most = max(votes.values(), default=0)
        winners = [answer for answer, number in votes.items() if number == most]
        right = {
            answer: fmean(r for a, r in zip(answers, rights, strict=True) if a == answer)
            for answer in winners
        }
        outcomes.append(fmean(right.values()) if winners else 0.0)
    return fmean(outcomes)


def test_majority_is_the_mean_over_all_subsets() -> None:
    rng = random.Random(0)
    for _ in range(150):
        n = rng.randint(1, 7)
        answers = [rng.choice(["a", "b", "c", "d", None]) for _ in range(n)]
        rights = [float(answer == "a") for answer in answers]
        if rng.random() < 0.3:  # an answer whose completions do not agree in their verdicts
            rights = [float(rng.random() < 0.5) for _ in range(n)]
        for k in range(1, n + 1):
            assert majority_at_k(answers, rights, k) == pytest.approx(voted(answers, rights, k))


def test_a_plurality_is_enough_and_silence_never_wins() -> None:
    assert majority_at_k(["a", "a", "b", "c", None], [1, 1, 0, 0, 0], 5) == 1
    assert majority_at_k([None, None, "b"], [1, 1, 0], 3) == 0
    assert majority_at_k(["a", "b"], [1, 0], 2) == 0.5


def test_majority_of_many_completions_is_quick_and_exact() -> None:
    answers = [str(i % 40) for i in range(128)]
    rights = [float(answer == "0") for answer in answers]
    # 40 answers are alike but for the eight that have one completion more
    assert 0 < majority_at_k(answers, rights, 128) == pytest.approx(1 / 8)


def test_best_of_n_is_the_mean_over_all_subsets_and_never_above_pass_at_n() -> None:
    rng = random.Random(1)
    for _ in range(100):
        total = rng.randint(1, 7)
        scores = [rng.choice([0.1, 0.2, 0.5, 0.9]) for _ in range(total)]
        rights = [float(rng.random() < 0.4) for _ in range(total)]
        for n in range(1, total + 1):
            chosen = []
            for subset in combinations(range(total), n):
                best = max(scores[i] for i in subset)
                chosen.append(fmean(rights[i] for i in subset if scores[i] == best))
            value = best_of_n(scores, rights, n)
            # Within a tie all completions of that score are equally likely, drawn or not.
            assert value == pytest.approx(fmean(chosen))
            assert value <= pass_at_k(total, int(sum(rights)), n) + 1e-12


def test_the_expected_maximum_is_the_mean_over_all_subsets_and_grows() -> None:
    rng = random.Random(2)
    scores = [rng.random() for _ in range(7)]
    maxima = [expected_maximum(scores, n) for n in range(1, 8)]
    for n, value in enumerate(maxima, start=1):
        assert value == pytest.approx(fmean(max(s) for s in combinations(scores, n)))
    assert maxima == sorted(maxima) and maxima[0] == pytest.approx(fmean(scores))
    harm = [harm_probability(scores, n) for n in range(1, 8)]
    assert harm == sorted(harm) and harm[-1] == float(max(scores) >= 0.5)


def test_accuracy_and_capability_of_four_questions() -> None:
    """Success rates 0, .01, .5 and 1 at k = 256: accuracy .378 and capability .731."""
    n = 200_000
    counts = [(n, round(rate * n)) for rate in (0, 0.01, 0.5, 1)]
    measured = ability(counts, 256)
    assert measured.accuracy == pytest.approx(0.3775, abs=5e-4)
    assert measured.capability == pytest.approx(0.731, abs=5e-4)


def test_the_base_model_alone_decides_the_bin() -> None:
    base = {"hard": (8, 0), "middle": (8, 4), "easy": (8, 8)}
    before = {"hard": (8, 1), "middle": (8, 4), "easy": (8, 8), "unknown": (8, 8)}
    after = {"hard": (8, 0), "middle": (8, 8), "easy": (8, 8)}
    [hard, middle, easy] = by_difficulty(base, before, after, k=4)
    assert (hard.low, hard.high) == (0, 0) and (easy.low, easy.high) == (0.8, 1.0)
    assert (middle.low, middle.high) == (0.4, 0.6)
    assert hard.before.capability == 0.5 and hard.after.capability == 0
    assert middle.after.accuracy == 1 and middle.before.accuracy == 0.5
