"""What `rlcore doctor` says of the machine: disk, memory that is shared, clock, GPUs."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rlcore.cli.finding import Finding
from rlcore.errors import ModelError
from rlcore.weight_files import WeightFiles

if TYPE_CHECKING:
    from rlcore.recipe.schema import Recipe

PROBE_BYTES = 32 << 20
SLOW_WRITES = 20e6
"""Bytes a second under which saving a model takes minutes."""
SHARED_MEMORY = 1 << 30
"""What NCCL, vLLM and data loaders share; containers often have 64 MB."""
GPU_DEADLINE_S = 30.0
BYTES_OF_WEIGHT = 4 + 4 + 8
"""Of a parameter in a checkpoint: its value, its master copy under bfloat16, Adam's moments."""


def machine_findings(recipe: Recipe | None = None) -> Iterator[Finding]:
    """Look at the disk of the run folder, the clock, shared memory and the GPUs."""
    folder = Path(recipe.run.folder if recipe else ".").expanduser()
    while not folder.exists():
        folder = folder.parent
    yield disk_space(folder, recipe)
    yield write_speed(folder)
    yield clock(folder)
    yield shared_memory()
    yield from gpus()


def disk_space(folder: Path, recipe: Recipe | None) -> Finding:
    """Free space against the checkpoints to come. Each stage may need a reference model too."""
    use = "checkpoints of the run"
    free = shutil.disk_usage(folder).free
    state = f"{free / 1e9:.1f} GB free at {folder.resolve()}"
    parameters = count_parameters(recipe) if recipe else None
    if recipe is None or parameters is None:
        return Finding("disk", free > 1e9, state + _unless(free > 1e9, "free space"), use)
    kept = recipe.run.keep_checkpoints
    needed = parameters * BYTES_OF_WEIGHT * (kept + 2)
    state += (
        f", at most {needed / 1e9:.1f} GB needed: {kept} checkpoints, one being written "
        "and a reference model"
    )
    remedy = "free space, lower run.keep_checkpoints, or choose another run.folder"
    return Finding("disk", free > needed, state + _unless(free > needed, remedy), use)


def count_parameters(recipe: Recipe) -> int | None:
    """Parameters of the recipe's model, from its config or its files; None where neither is here."""
    if recipe.model.path is None:
        from rlcore.plan.model import shaped_model

        try:
            return shaped_model(recipe).parameters
        except ModelError:  # what is wrong with the config is said when it is loaded
            return None
    from rlcore.recipe.build_learner import starting_point

    try:
        files = WeightFiles(Path(starting_point(recipe.model.path)))
    except ModelError:  # none of several is here, or a file is broken
        return None
    return sum(math.prod(shape) for shape, _ in files.shapes.values())


def write_speed(folder: Path) -> Finding:
    """Write and flush a file where runs are written."""
    use = "saving checkpoints"
    block = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            started = time.perf_counter()
            for _ in range(PROBE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            speed = PROBE_BYTES / (time.perf_counter() - started)
    except OSError as error:
        problem = f"{folder.resolve()} cannot be written ({error.strerror}): choose another run.folder"
        return Finding("write speed", False, problem, use)
    works = speed >= SLOW_WRITES
    state = f"{speed / 1e6:.0f} MB/s" + _unless(works, "choose a local disk with run.folder")
    return Finding("write speed", works, state, use, needed=False)


def clock(folder: Path) -> Finding:
    """The machine's clock against that of the file system, which may be another machine's."""
    with tempfile.NamedTemporaryFile(
        dir=folder if os.access(folder, os.W_OK) else None
    ) as file:
        gap = time.time() - os.stat(file.name).st_mtime
    works = abs(gap) < 60 and time.time() > 1.7e9
    state = f"{time.strftime('%Y-%m-%d %H:%M:%S')}, {gap:+.1f} s from the file system's"
    return Finding(
        "clock", works, state + _unless(works, "set it (NTP)"), "dates in logs", needed=False
    )


def shared_memory() -> Finding:
    use = "several processes: NCCL, vLLM, data loaders"
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        return Finding("shared memory", False, "there is no /dev/shm", use, needed=False)
    works = free >= SHARED_MEMORY
    remedy = "give the container more (docker run --shm-size=8g)"
    state = f"{free / 1e9:.1f} GB free" + _unless(works, remedy)
    return Finding("shared memory", works, state, use, needed=False)


def gpus() -> Iterator[Finding]:
    """Health of each GPU by its driver: memory errors, heat, and memory that others hold."""
    if shutil.which("nvidia-smi") is None:
        return
    fields = "index,name,temperature.gpu,memory.used,memory.total,ecc.errors.uncorrected.volatile.total"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(
            command, capture_output=True, text=True, timeout=GPU_DEADLINE_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        problem = (
            f"nvidia-smi fails ({type(error).__name__}): restart the driver or the machine"
        )
        yield Finding("GPU", False, problem, "learner and engine")
        return
    yield from map(gpu_finding, output.strip().splitlines())


def gpu_finding(line: str) -> Finding:
    """The finding of one line of nvidia-smi."""
    index, name, heat, used, total, errors = (part.strip() for part in line.split(","))
    problems = []
    if errors.isdecimal() and int(errors) > 0:
        problems.append(
            f"{errors} memory errors that were not corrected: reset it, or exclude it"
        )
    if heat.isdecimal() and int(heat) >= 90:
        problems.append(f"{heat} degrees: it will slow down, look after its cooling")
    if used.isdecimal() and total.isdecimal() and int(used) > 0.5 * int(total):
        problems.append("others hold over half of its memory: end them, or choose another GPU")
    state = "; ".join([f"{name}, {heat} degrees, {used} of {total} MiB in use", *problems])
    return Finding(f"GPU {index}", not problems, state, "learner and engine", needed=False)


def _unless(works: bool, remedy: str) -> str:
    return "" if works else f": {remedy}"
