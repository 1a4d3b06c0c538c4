"""Libraries that an adapter needs and rlcore does not."""

from __future__ import annotations

import importlib
from typing import Any

from rlcore.errors import RecipeError, first_line


def imported(module: str, *, package: str) -> Any:
    """A library's module. package: what to install where it is absent. Raises `RecipeError`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RecipeError(
            f"{module.partition('.')[0]} cannot be imported ({first_line(error)}): pip install {package}, "
            "or name an interpreter that has it as env.python"
        ) from error
