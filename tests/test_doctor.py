"""`rlcore doctor` fails when a needed part is missing, and only then."""

from __future__ import annotations

import pytest

from rlcore.cli import doctor
from rlcore.cli.doctor import Finding
from rlcore.cli.main import main


@pytest.mark.parametrize(
    "works, needed, status", [(True, True, 0), (False, False, 0), (False, True, 1)]
)
def test_the_exit_status(
    works: bool, needed: bool, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = [Finding("torch", works, "pip install torch", "learner", needed)]
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    assert main(["doctor"]) == status


def test_a_package_that_is_absent_is_needed_unless_it_says_otherwise() -> None:
    assert doctor._package("no-such-package", "nothing").needed
    assert not doctor._package("no-such-package", "nothing", needed=False).works
    assert not doctor._probe("broken", "raise SystemExit('no')", "nothing", "remedy").needed
