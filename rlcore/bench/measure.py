"""Two sides timed in turn, and what is reported of it."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple


class Seconds(NamedTuple):
    """What one call took: by the clock, and of all cores together in this process."""

    wall: float
    cpu: float


class Stopwatch:
    """Seconds since it was made; what a GPU was given before is waited for."""

    def __init__(self) -> None:
        _wait_for_gpu()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Seconds:
        _wait_for_gpu()
        return Seconds(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def alternate(sides: dict[str, Callable[[], Any]], *, repeats: int) -> dict[str, list[Seconds]]:
    """Seconds of each call of each side, side after side and in the other order every second time; a first call is not counted.

    In turn because a machine drifts by more than what is measured, and others may be working on it.
    """
    seconds: dict[str, list[Seconds]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        for name in sides if number % 2 else reversed(sides):
            watch = Stopwatch()
            sides[name]()
            if number:
                seconds[name].append(watch.read())
    return seconds


def compare(ours: Sequence[Seconds], theirs: Sequence[Seconds]) -> dict[str, Any]:
    """Medians, and median and spread (least, greatest) of the ratios theirs / ours of calls made beside each other.

    `cpu_ratio` is that of CPU time: on a machine that others use, and with one thread, the one that can be trusted.
    """
    ratios = [b.wall / a.wall for a, b in zip(ours, theirs, strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "cpu_ratio": round(
            statistics.median(b.cpu / a.cpu for a, b in zip(ours, theirs, strict=True)), 3
        ),
        "ours": round(statistics.median(call.wall for call in ours), 5),
        "theirs": round(statistics.median(call.wall for call in theirs), 5),
        "repeats": len(ratios),
    }


def _wait_for_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gb(side: Callable[[], Any]) -> float | None:
    """Most memory during a call: on a GPU all that this process holds, on a CPU what the call adds to what it held.

    None on a CPU whose system does not count it.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        side()
        return round(torch.cuda.max_memory_allocated() / 1e9, 2)
    try:
        # Linux: the peak of the resident memory begins anew.
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        side()
        return round((resident("VmHWM") - before) / 1e9, 2)
    except OSError:
        return None


def resident(field: str) -> int:
    """Bytes, a line of this process's status. Raises `OSError` where the system has none."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def matmul_flops(dtype: str) -> float:
    """Floating-point operations a second of a large matrix product here: the best of a few."""
    import torch

    device, n = ("cuda", 8192) if torch.cuda.is_available() else ("cpu", 1024)
    a, b = (torch.randn(n, n, device=device, dtype=getattr(torch, dtype)) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        watch = Stopwatch()
        torch.mm(a, b)
        best = min(best, watch.read().wall)
    return 2 * n**3 / best


def circumstances() -> dict[str, Any]:
    """Machine, threads and versions, and the load average, which says whether others were working."""
    import torch

    versions = {"python": platform.python_version()}
    for package in ("torch", "transformers", "accelerate", "trl"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
    }
