"""Seconds per part of a step, for the metrics."""

from __future__ import annotations

import time


class Stopwatch:
    """Starts when it is made; `lap` gives the time since the last lap to a part."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._last = self._started
        self._laps: dict[str, float] = {}

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        before = self._laps.get(part, 0.0)
        self._laps[part] = before + now - self._last
        self._last = now

    def times(self, **extra: float | None) -> dict[str, float]:
        """Seconds since the start as `time/total`, and `time/<part>` for the other parts.

        extra: parts that were measured elsewhere; None for one that does not exist.
        """
        total = time.perf_counter() - self._started
        parts = {**self._laps, **extra, "total": total}
        return {f"time/{part}": s for part, s in parts.items() if s is not None}
