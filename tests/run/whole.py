"""A whole run in seconds: a two-layer model that reads bytes, a few steps of each stage, and all it leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file

from rlcore.run.folder import read_rows
from tests.run.forked import Forked, Launched

Process = subprocess.Popen[str] | Forked | Launched

TINY = """
name: tiny
model:
  tokenizer: bytes
  config: {model_type: qwen2, hidden_size: 64, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 1, max_position_embeddings: 64, tie_word_embeddings: true}
engine: {use: hf, max_length: 48, max_sequences: 64, deadline_s: 120}
tasks:
  demonstrations: {use: arithmetic, split: train, size: 64, max_number: 4, terms: [2]}
  eval_set: {use: arithmetic, split: heldout, size: 8, max_number: 4, terms: [2]}
stages:
  - {kind: sft, tasks: demonstrations, steps: 6, batch_size: 16, optim: {lr: 1e-2, schedule: cosine, warmup_steps: 2}}
  - {kind: eval, name: before, tasks: eval_set, rewards: &length [{use: length, max_tokens: 4}], scoring: {workers: 1},
     sampling: &short {max_tokens: 12}}
  - {kind: rl, tasks: demonstrations, steps: 6, groups_per_step: 4, group_size: 4, rewards: *length, sampling: *short, optim: {lr: 1e-3}}
  - {kind: eval, name: after, tasks: eval_set, rewards: *length, scoring: {workers: 1}, sampling: *short}
run: {checkpoint_every: 2}
"""


def write_recipe(folder: Path) -> Path:
    """The tiny recipe's file; its runs go to `runs/` beside it."""
    path = folder / "tiny.yaml"
    path.write_text(TINY + f"run.folder: {folder / 'runs'}\n")
    return path


def start(
    *arguments: object, script: Path | None = None, processes: int = 1, cold: bool = False
) -> Process:
    """`rlcore ...` in a process of its own, or in several that know of each other; a script is run in its place.

    cold: by a new interpreter, as a person starts it.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [*([str(script)] if script else []), *map(str, arguments)]
    if cold:
        command = [sys.executable, *([] if script else ["-m", "rlcore"]), *command]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
    return (
        Launched(command, environment, processes) if processes > 1 else Forked(command, environment)
    )


def finish(process: Process, timeout_s: float = 240) -> str:
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, f"{out}\n{err}"
    return out


def kill_when(process: Process, is_time: Callable[[], bool]) -> None:
    """SIGKILL a run in the middle, as soon as it has come so far."""
    deadline = time.monotonic() + 180
    while not is_time():
        assert time.monotonic() < deadline and process.poll() is None, "ended before the kill"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)


def run_folder(recipe: Path) -> Path:
    return recipe.parent / "runs" / "tiny"


def weights(folder: Path) -> dict[str, bytes]:
    last = sorted((folder / "checkpoints").glob("step_*"))[-1]
    return {
        name: tensor.numpy().tobytes()
        for name, tensor in load_file(last / "model.safetensors").items()
    }


def untimed(rows: list[dict]) -> list[dict]:
    timed = ("time/", "tokens_per_s/", "memory/", "mfu")
    return [{key: value for key, value in row.items() if not key.startswith(timed)} for row in rows]


def story(folder: Path) -> dict[str, object]:
    """Everything a run leaves that must not depend on being killed."""
    return {
        "weights": weights(folder),
        "metrics": untimed(read_rows(folder / "metrics.jsonl")),
        "evals": untimed(read_rows(folder / "eval.jsonl")),
        "rollouts": {path.name: path.read_text() for path in (folder / "rollouts").iterdir()},
    }
