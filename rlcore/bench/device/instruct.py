"""Section f: the recipe `instruct` on the device, against what it reaches on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlcore.bench.device.case import Case, CheckError, Needs

ON_A_CPU = {"seconds": 1132, "accuracy": 0.424}
"""The whole recipe on two idle cores, float32: 9.7% before, both evaluations included."""
BY_CHANCE = 0.08
"""144 prompts: two standard deviations of a share near 0.4."""
TINY = (
    "model={config: {model_type: qwen2, hidden_size: 64, intermediate_size: 64, num_hidden_layers: 1, "
    "num_attention_heads: 2, num_key_value_heads: 1, max_position_embeddings: 1024}, tokenizer: bytes}",
    "engine={use: hf, max_length: 1024}",
    "prompt.format=plain",
    "sampling.max_tokens=8",
    "stages.before.limit=2",
    "stages.after.limit=2",
    "stages.rl.steps=1",
    "stages.rl.groups_per_step=2",
    "stages.rl.group_size=2",
)


def cases(tiny: bool) -> Iterator[Case]:
    """The whole recipe, in the CPU's arithmetic and in that of a GPU."""
    if tiny:
        yield Case("tiny", partial(_train, TINY, {}), seconds=120)
        return
    needs = Needs(gpus=1, memory_gb=20, packages=("vllm", "gguf"))
    for dtype in ("float32", "bfloat16"):
        yield Case(dtype, partial(_train, (f"model.dtype={dtype}",), ON_A_CPU), needs, 300)


def _train(overrides: Sequence[str], expected: dict[str, float]) -> dict[str, Any]:
    """Seconds of the run by the clock, of its steps, and accuracies. Raises `CheckError` below what is expected."""
    with tempfile.TemporaryDirectory(prefix="rlcore_device_") as folder:
        command = [sys.executable, "-m", "rlcore", "train", "instruct", *overrides]
        command += ["name=device", f"run.folder={folder}", "--json"]
        started = time.monotonic()
        run = subprocess.run(command, capture_output=True, text=True)
        seconds = time.monotonic() - started
        if run.returncode:
            raise CheckError(f"the run failed: {run.stderr.strip()[-3000:]}")
        summary = json.loads(run.stdout.strip().splitlines()[-1])
        rows = [
            json.loads(line)
            for line in (Path(folder) / "device" / "metrics.jsonl").read_text().splitlines()
        ]
    steps = [row["time/total"] for row in rows if "time/total" in row]
    after = summary["accuracy_after"]
    if expected and after < expected["accuracy"] - BY_CHANCE:
        raise CheckError(
            f"accuracy {after:.1%} after the run, {expected['accuracy']:.1%} on a CPU"
        )
    return {
        "seconds": round(seconds, 1),
        "step_s": [round(value, 2) for value in steps],
        "accuracy_before": summary["accuracy_before"],
        "accuracy_after": after,
        "on_a_cpu": expected,
    }
