"""The stability gap: its two numbers from curves worked out by hand, and from the rows that a run writes."""

from __future__ import annotations

import pytest

from rlcore.errors import RunError
from rlcore.measures.stability_gap import gap_from_log, stability_gap


@pytest.mark.parametrize(
    ("scores", "depth", "to_lowest", "to_return"),
    [
        ([(5, 0.5), (10, 0.3), (15, 0.55), (20, 0.7), (25, 0.6)], 0.3, 10, 20),
        ([(5, 0.7), (10, 0.2), (15, 0.4)], 0.4, 10, None),  # above the start first, and not back at the end
        ([(5, 0.6), (10, 0.6)], 0.0, 0, 0),
        ([(5, 0.9), (10, 0.8)], 0.0, 0, 0),
        ([(5, 0.4), (10, 0.6), (15, 0.4), (20, 0.61)], 0.2, 5, 10),  # the first of two lowest; equal to the start is back
    ],
)
def test_depth_and_steps_until_the_start_is_reached_again(scores, depth, to_lowest, to_return) -> None:
    gap = stability_gap(0.6, scores)
    assert gap.depth == pytest.approx(depth)
    assert (gap.steps_to_lowest, gap.steps_to_return, gap.end) == (to_lowest, to_return, scores[-1][1])


def test_a_loss_is_a_score_with_a_minus_sign() -> None:
    gap = stability_gap(-1.0, [(1, -1.8), (2, -1.2), (3, -0.9)])
    assert gap.depth == pytest.approx(0.8) and gap.steps_to_return == 3


@pytest.mark.parametrize("scores", [[], [(0, 0.5)], [(2, 0.5), (2, 0.6)], [(3, 0.5), (2, 0.6)]])
def test_curves_without_an_order(scores) -> None:
    with pytest.raises(ValueError, match="rising numbers of steps"):
        stability_gap(0.5, scores)


def row(stage_index: int, step: int, name: str, accuracy: float, **more: object) -> dict:
    return {"stage_index": stage_index, "step": step, "eval_set": name, "accuracy": accuracy, **more}


def test_from_the_rows_of_a_run() -> None:
    rows = [
        row(0, 2, "old", 0.95, during="learn_old"), row(1, 10, "old", 0.9), row(1, 10, "new", 0.1),
        row(2, 14, "old", 0.5, during="shift"), row(2, 14, "new", 0.3, during="shift"),
        row(2, 18, "old", 0.92, during="shift"), row(2, 18, "new", 0.4, during="shift"),
        row(3, 20, "old", 0.0), row(4, 24, "old", 0.0, during="later"),
    ]  # fmt: skip
    gap = gap_from_log(rows, "old", stage_index=2)
    assert (gap.start, gap.lowest, gap.end) == (0.9, 0.5, 0.92)
    assert (gap.steps_to_lowest, gap.steps_to_return) == (4, 8)
    assert gap_from_log(rows, "new", stage_index=2).depth == 0
    with pytest.raises(RunError, match="no evaluation of 'old' before stage 0"):
        gap_from_log(rows, "old", stage_index=0)
    with pytest.raises(RunError, match="no evaluation of 'old' during stage 3"):
        gap_from_log(rows, "old", stage_index=3)
