"""The examples in the docstrings of the shipped rewards run and give what they say."""

from __future__ import annotations

import doctest
import importlib
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "rewards").glob("**/*.py")
    if path.name not in ("__init__.py", "__main__.py")
)
REWARDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
    "rlcore.rewards"
]
OPTIONAL = ("reasoning_gym", "langdetect", "openai", "httpx")


def load(module: str):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name in OPTIONAL:
            pytest.skip(f"{error.name} is not installed")
        raise


def examples(thing) -> int:
    return sum(
        len(test.examples) for test in doctest.DocTestFinder(recurse=False).find(thing, "example")
    )


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_are_true(module):
    failed, _ = doctest.testmod(
        load(module), optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    )
    assert failed == 0, (
        f"see the report above, or run: python -c 'import doctest, {module} as m; doctest.testmod(m)'"
    )


def test_a_wrong_example_is_seen():
    def planted():
        """
        >>> 1 + 1
        3
        """

    (test,) = doctest.DocTestFinder(recurse=False).find(planted, "planted")
    assert doctest.DocTestRunner(verbose=False).run(test, out=lambda line: None).failed == 1


@pytest.mark.parametrize("name", REWARDS)
def test_every_registered_reward_has_an_example(name):
    module, _, function = REWARDS[name].partition(":")
    assert examples(getattr(load(module), function)) > 0
