"""The accuracies of a run's last line compare evaluations of one task set."""

from __future__ import annotations

import pytest

from rlcore.run.driver import accuracies


@pytest.mark.parametrize(
    ("evaluations", "expected"),
    [
        ([], (None, None)),
        ([("a", 0.5)], (0.5, None)),
        ([("a", 0.5), ("a", 0.75)], (0.5, 0.75)),
        ([("b", 0.1), ("a", 0.5), ("b", 0.2), ("a", 0.75)], (0.5, 0.75)),
        ([("a", 0.5), ("b", 0.75)], (0.75, None)),
    ],
)
def test_first_and_last_of_the_last_task_set(
    evaluations: list[tuple[str, float]], expected: tuple[float | None, float | None]
) -> None:
    rows = [{"eval_set": name, "accuracy": accuracy} for name, accuracy in evaluations]
    assert accuracies(rows) == expected
