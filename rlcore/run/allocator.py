"""Memory that the C library keeps after it was freed."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

M_MMAP_THRESHOLD, M_MMAP_MAX = -3, -4
"""Names of settings in glibc's malloc.h."""
LARGE = 2**20
"""Bytes of a block that goes back to the system when it is freed."""
MOST_BLOCKS = 2**15
"""Of large ones at once. Linux lets a process map 65,530 ranges, its libraries and stacks among them."""


def free_large_blocks_at_once() -> None:
    """Let the C library (glibc) return blocks of a MiB or more to the system when they are freed.

    Else the threshold grows with what is freed, up to 32 MB, and activations of packs that differ in length leave gaps
    between them that nothing fits: 0.5 GiB of 6.1 in the recipe `instruct` on a CPU, and 0.9 of 5.0 with an adapter.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, LARGE)
        library.mallopt(M_MMAP_MAX, MOST_BLOCKS)


def give_back_freed_memory() -> None:
    """Return free pages to the system, where the C library can (glibc).

    It keeps small freed blocks for itself, and engine and learner, which take turns, would each hold the most that it ever needed.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
