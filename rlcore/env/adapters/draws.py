"""Random numbers of games that draw from Python's (and NumPy's) shared generator, kept apart by episode."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

LARGEST_SEED = 2**32
"""NumPy takes no larger one."""


class Draws:
    """The shared generators as one episode left them. Without it, an episode depends on those beside it."""

    def __init__(self, seed: int) -> None:
        self.seed = seed % LARGEST_SEED
        self._state: Any = None
        self._numpy_state: Any = None

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside, the generators go on where they were after the last time."""
        numpy = sys.modules.get("numpy")
        if self._state is None:
            random.seed(self.seed)
        else:
            random.setstate(self._state)
        if numpy is not None and self._numpy_state is None:
            numpy.random.seed(self.seed)
        elif numpy is not None:
            numpy.random.set_state(self._numpy_state)
        try:
            yield
        finally:
            self._state = random.getstate()
            if numpy is not None:
                self._numpy_state = numpy.random.get_state()
