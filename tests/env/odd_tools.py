"""Tools that have a schema and yet cannot be called as it says. Without postponed annotations: these are values."""

import asyncio
from typing import Literal


def yields(a: int):
    """Say.

    Args:
        a: x
    """
    yield 1


async def yields_later(a: int):
    """Say.

    Args:
        a: x
    """
    await asyncio.sleep(0)
    yield 1


def three(a: 3) -> int:
    """Say.

    Args:
        a: x
    """
    return a


def builtin(a: any) -> int:
    """Say.

    Args:
        a: x
    """
    return a


def right(a: int | None, b: Literal["x", "y"], c: list[dict[str, float]], d: str | None = None) -> str:
    """Say.

    Args:
        a: x
        b: x
        c: x
        d: x
    """
    return "x"
