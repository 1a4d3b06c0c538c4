"""Memory of this process, for the metrics."""

from __future__ import annotations

import resource
import sys

import torch


def memory_metrics() -> dict[str, float]:
    """Peaks of this process in GB: `memory/host` since it began, `memory/device` since the last call.

    `memory/device` is what torch allocated, and is left out where there is no GPU.
    """
    # ru_maxrss is in bytes on macOS and in kilobytes elsewhere
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    metrics = {"memory/host": peak / 1e9}
    if torch.cuda.is_available():
        metrics["memory/device"] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
    return metrics
