"""Section d: whole GRPO steps, generation and learning side by side on one GPU, and weights between processes."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rlcore.bench.device.case import Case, CheckError, Needs
from rlcore.bench.device.transfer import by_broadcast, by_file
from rlcore.bench.workload import MODELS, Shape

UNCOUNTED = 2
"""Steps at the start of a run: compilation, and with staleness 1 the wait for two batches."""
RECIPE = """
name: {name}
model: {{tokenizer: bytes, dtype: {dtype}, config: {config}}}
engine: {{max_length: {longest}, max_sequences: {sequences}, deadline_s: 600, {engine}}}
tasks:
  problems: {{use: arithmetic, split: train, size: 512}}
stages:
  - kind: rl
    tasks: problems
    steps: {steps}
    groups_per_step: {groups}
    group_size: 8
    max_staleness: {staleness}
    objective: {{use: dapo, correction: {{kind: token_truncate, high: 2.0}}}}
    rewards: [{{use: length, max_tokens: {rewarded}}}]
    scoring: {{workers: 1}}
    sampling: {{max_tokens: {answer}}}
    optim: {{lr: 1e-6}}
run: {{folder: {folder}, checkpoint_every: 1000}}
"""


def cases(tiny: bool) -> Iterator[Case]:
    """The comparison first."""
    plain = Needs() if tiny else Needs(gpus=1, memory_gb=70, packages=("vllm",))
    trl = Needs(packages=("trl",)) if tiny else replace(plain, packages=("vllm", "trl"))
    yield Case("against TRL", partial(_against_trl, tiny), trl, 240)
    model = ("tiny", "float32") if tiny else ("qwen2.5-1.5b", "bfloat16")
    yield Case("weights by file", partial(by_file, *model), Needs(gpus=0 if tiny else 1), 120)
    two = Needs() if tiny else Needs(gpus=2)
    yield Case("weights by broadcast", partial(by_broadcast, 4 << 20 if tiny else 3 << 30), two)
    yield Case("side by side", partial(_side_by_side, tiny), plain, 300)


def _against_trl(tiny: bool) -> dict[str, Any]:
    """Rollout, reward, learning and publishing with proof, against TRL's step with vLLM colocated; parts of our step."""
    from rlcore.bench.train import bench_train

    if tiny:
        shape = Shape(prompts=2, group_size=2, prompt_tokens=16, answer_min=4, answer_max=8)
        return bench_train(shape, hidden_size=64, layers=1, repeats=1)
    shape = Shape(prompts=16, group_size=8, prompt_tokens=256, answer_min=256, answer_max=256)
    return bench_train(
        shape,
        model="qwen3-0.6b",
        engine="vllm",
        dtype="bfloat16",
        repeats=3,
        micro_batch_tokens=16_384,
        trl_micro_batch=16,
    )


def _side_by_side(tiny: bool) -> dict[str, Any]:
    """Seconds of a step with staleness 0 and 1. With a GPU: a vLLM server on the learner's own GPU."""
    with tempfile.TemporaryDirectory(prefix="rlcore_device_") as name:
        folder = Path(name)
        if tiny:
            engine = "use: 'rlcore.bench.overlap:SlowEngine', seconds: 0.2"
            return {"together": _run(folder, "together", engine, staleness=1, tiny=True)}
        with _server(folder) as url:
            engine = f"use: vllm_server, servers: ['{url}']"
            apart = _run(folder, "apart", engine, staleness=0, tiny=False)
            together = _run(folder, "together", engine, staleness=1, tiny=False)
    saved = 1 - together["total"] / apart["total"]
    return {"apart": apart, "together": together, "saved": round(saved, 4)}


def _recipe(folder: Path, name: str, engine: str, *, staleness: int, tiny: bool) -> Path:
    config = {**MODELS["tiny" if tiny else "qwen3-0.6b"]}
    if tiny:
        config |= {"num_hidden_layers": 1, "hidden_size": 64}
    text = RECIPE.format(
        name=name,
        dtype="float32" if tiny else "bfloat16",
        config=config,
        longest=96 if tiny else 768,
        sequences=16 if tiny else 256,
        engine=engine,
        steps=UNCOUNTED + (1 if tiny else 6),
        groups=2 if tiny else 16,
        staleness=staleness,
        answer=16 if tiny else 512,
        rewarded=8 if tiny else 256,
        folder=folder,
    )
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def _run(
    folder: Path, name: str, engine: str, *, staleness: int, tiny: bool
) -> dict[str, float]:
    """Median seconds of the parts of a step, from the run's own rows."""
    from rlcore.run.folder import read_rows

    recipe = _recipe(folder, name, engine, staleness=staleness, tiny=tiny)
    command = [sys.executable, "-m", "rlcore", "train", str(recipe)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise CheckError(f"a run of the case failed: {run.stderr.strip()[-3000:]}")
    rows = read_rows(folder / name / "metrics.jsonl")[UNCOUNTED:]
    parts = sorted(key for key in rows[0] if key.startswith("time/"))
    return {
        key.removeprefix("time/"): round(statistics.median(row[key] for row in rows), 4)
        for key in parts
        if all(isinstance(row.get(key), int | float) for row in rows)
    }


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """The address of a vLLM server on this GPU, which leaves more than half of it to the learner."""
    recipe = _recipe(
        folder, "server", "use: vllm_server, memory_gb: 20", staleness=0, tiny=False
    )
    command: Sequence[str] = [sys.executable, "-m", "rlcore", "serve", str(recipe)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            up = re.match(r"RLCORE_SERVERS=(\S+)", line)
            if up:
                yield up[1]
                break
        else:
            raise CheckError(f"the server did not start: {''.join(said)[-3000:]}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
