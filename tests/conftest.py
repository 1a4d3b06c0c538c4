"""What all tests share."""

from __future__ import annotations

import gc
import os
import time
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: a name that no folder has fails at once

WHOLE_RUNS = ("run", "curriculum", "rollout", "test_readme.py", "test_bench.py")

SLOW_TESTS = tuple(
    line
    for line in Path(__file__).with_name("slow_tests.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests that SLOW_TESTS names are slow. Files of whole runs come first: a long one at the end of the queue would leave
    the other test process idle."""
    items.sort(key=lambda item: not set(item.path.parts) & set(WHOLE_RUNS))
    for item in items:
        if item.nodeid.startswith(SLOW_TESTS):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """On a slow machine CI leaves out the last tests of the slow tier instead of running out of its time."""
    until = float(os.environ.get("RLCORE_TESTS_UNTIL", "inf"))
    if time.time() > until and item.get_closest_marker("slow"):
        pytest.skip("not run for lack of time: the moment RLCORE_TESTS_UNTIL has passed")


def pytest_collection_finish() -> None:
    """Runs in the test's own process collect garbage after each stage, which takes half a second over all that is imported."""
    gc.freeze()


def pytest_unconfigure() -> None:
    """Else some packages speak of leaks when the interpreter ends."""
    gc.unfreeze()
