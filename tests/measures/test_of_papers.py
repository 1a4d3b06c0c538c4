"""Asking to reconsider, and transfer between stages: the numbers that the definitions give."""

from __future__ import annotations

import pytest

from rlcore.measures.learning_curve import relative_performance, sample_efficiency
from rlcore.measures.reconsider import Reconsidered, reconsidered
from rlcore.measures.transfer import matrix


def test_confidence_and_critique_of_counts() -> None:
    """60 of 100 right at first; 54 of them are kept and 16 of the 40 wrong ones mended."""
    before = [True] * 60 + [False] * 40
    after = [True] * 54 + [False] * 6 + [True] * 16 + [False] * 24
    measured = reconsidered(before, after)
    assert (measured.confidence, measured.critique) == (0.9, 0.4)
    assert measured.accuracy_after == 0.7
    assert measured.relative_score == pytest.approx(0.708, abs=5e-4)
    first = measured.accuracy_before
    assert first * 0.9 + (1 - first) * 0.4 == pytest.approx(measured.accuracy_after)


@pytest.mark.parametrize("second, score", [(0.36, 0.0), (0.60, 0.5), (0.84, 1.0)])
def test_the_relative_score_lies_between_its_bounds(second: float, score: float) -> None:
    assert Reconsidered(0.6, second, None, None).relative_score == pytest.approx(score)


def test_what_is_undefined_is_none() -> None:
    kept = reconsidered([True, True], [True, True])
    assert kept.relative_score is None and kept.critique is None and kept.confidence == 1
    same = reconsidered([True, False], [True, False])
    assert (same.confidence, same.critique, same.relative_score) == (1, 0, 0.5)


STAGES = [("start", False), ("a", True), ("after_a", False), ("b", True), ("after_b", False)]


def row(stage_index: int, name: str, accuracy: float, **more: object) -> dict:
    return {"stage_index": stage_index, "eval_set": name, "accuracy": accuracy, **more}


@pytest.mark.parametrize(
    ("own", "expert", "relative", "efficiency"),
    [
        # areas to step 4: (.2 + .6) + (.6 + .8) = 2.2 and .4 + 1.2 = 1.6; both are best at step 4
        ([(0, 0.2), (2, 0.6), (4, 0.8)], [(0, 0.0), (2, 0.4), (4, 0.8), (6, 0.8)], 2.2 / 1.6, 1.0),
        # as good as the expert in half the steps; the expert's line from 0 to 4 is cut at 2
        ([(0, 0.0), (2, 0.8)], [(0, 0.0), (4, 0.8)], 0.8 / 0.4, 2.0),
        # half as good in the same steps
        ([(0, 0.1), (3, 0.4)], [(0, 0.2), (3, 0.8)], 0.5, 0.5),
        # never better than at the start, and an expert that knows nothing
        ([(0, 0.5), (3, 0.2)], [(0, 0.0), (3, 0.0)], None, None),
    ],
)
def test_a_learner_beside_an_expert(own, expert, relative, efficiency) -> None:
    assert relative_performance(own, expert) == (relative and pytest.approx(relative))
    assert sample_efficiency(own, expert) == (efficiency and pytest.approx(efficiency))


def test_transfer_and_forgetting_from_one_log() -> None:
    rows = [
        row(0, "a", 0.1), row(0, "b", 0.2), row(1, "a", 0.99, during="a"),
        row(2, "a", 0.8), row(2, "b", 0.3), row(4, "a", 0.6), row(4, "b", 0.9),
    ]  # fmt: skip
    measured = matrix(STAGES, rows)
    assert measured.stages == ["a", "b"]
    assert measured.accuracy == [{"a": 0.1, "b": 0.2}, {"a": 0.8, "b": 0.3}, {"a": 0.6, "b": 0.9}]
    assert measured.forgetting("a") == pytest.approx(0.2)
    assert measured.maintenance("a", trained_in=1) == pytest.approx(-0.2)
    assert measured.forward_transfer("b", trained_in=2) == pytest.approx(0.1)
    # b is trained last: nothing came after it
    assert measured.maintenance("b", trained_in=2) == 0
    assert measured.forgetting("missing") is None
