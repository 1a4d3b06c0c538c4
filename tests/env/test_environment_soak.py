"""A short form of the soak: each kind of fault at least once, among concurrent episodes."""

from __future__ import annotations

import pytest

from tests.soak.environments import DUE, run


@pytest.mark.slow
def test_faults_in_a_row_cost_nobody_else_anything() -> None:
    assert run(len(DUE) + 6, seed=1) == 0
