"""What `max_staleness: 1` saves: the time of a step while generation and learning wait for each other, and side by side.

Two engines: one in this process whose completions take as long as a step of the learner and cost no CPU time, and a real
vLLM server that has one core, while the learner has another. Each is trained with staleness 0 and 1 for the same number of
steps; the first two of each do not count.
"""

from __future__ import annotations

import importlib.util
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rlcore.bench.measure import circumstances
from rlcore.errors import RunError
from rlcore.rollout.hf import HfEngine
from rlcore.types import Completion, Request

PORT = 18700
START_S = 600.0
RUN_S = 3600.0
UNCOUNTED = 2
"""Steps at the start: with staleness 1 the first one waits for two batches."""

RECIPE = """
name: {name}
model:
  tokenizer: bytes
  config: {{model_type: llama, hidden_size: 256, intermediate_size: 512, num_hidden_layers: 4, num_attention_heads: 4,
           num_key_value_heads: 4, max_position_embeddings: 256}}
engine: {{max_length: 160, max_sequences: 32, deadline_s: 3600, {engine}}}
tasks:
  problems: {{use: arithmetic, split: train, size: 512}}
stages:
  - kind: rl
    tasks: problems
    steps: {steps}
    groups_per_step: {prompts}
    group_size: 8
    max_staleness: {staleness}
    minibatches: 1
    update_epochs: {epochs}
    rewards: [{{use: length, max_tokens: 60}}]
    scoring: {{workers: 1}}
    sampling: {{max_tokens: 120}}
    optim: {{lr: 1e-5}}
run: {{folder: {folder}, checkpoint_every: 1000}}
"""


class SlowEngine(HfEngine):
    """Completions of no sense that come back `seconds` after they were asked for, as from a server: they cost no CPU time."""

    def __init__(
        self, model_folder: str | Path, *, dtype: str, max_length: int, seconds: float
    ) -> None:
        """seconds: from the first request of a batch to its last completion."""
        super().__init__(model_folder, dtype=dtype, max_length=max_length)
        self.shared, self.deterministic = True, False
        self._seconds = seconds
        self._ready = 0.0
        self._written: list[Completion] = []

    def submit(self, requests: Sequence[Request]) -> None:
        for request in requests:
            longest = request.sampling.max_tokens
            # of unequal lengths, so that rewards differ and there is something to learn
            count = longest - request.seed % (longest // 2)
            completion = Completion(
                request_id=request.id,
                token_ids=[(request.seed + i) % 256 for i in range(count)],
                logprobs=[-math.log(256)] * count,
                versions=[self.version] * count,
                finish="length",
            )
            self._written.append(completion)
        self._ready = time.monotonic() + self._seconds

    def poll(self, timeout_s: float) -> list[Completion]:
        left = self._ready - time.monotonic()
        if left > 0:
            time.sleep(min(timeout_s, left))
            return []
        written, self._written = self._written, []
        return written

    def abort(self, request_ids: Sequence[str]) -> None:
        """Nothing: what was asked for comes back whole."""


def bench_overlap(*, repeats: int = 8, prompts: int = 4) -> dict[str, Any]:
    """Seconds of a step with staleness 0 and 1, for each engine. repeats: steps that count. prompts: in a step.

    `generate` and `learn` are the parts of a step with staleness 0. `ratio` is the step with staleness 1 over the longer
    part: 1 is perfect overlap. `saved` is the part of a step with staleness 0 that is saved.
    """
    steps = UNCOUNTED + repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = partial(_parts, folder, prompts=prompts)
        first = parts("calibrate", "use: hf", steps=UNCOUNTED + 3, staleness=0)
        engine = "use: 'rlcore.bench.overlap:SlowEngine', seconds: " + f"{first['learn']:.2f}"
        result = {
            "bench": "overlap",
            "prompts": prompts,
            "slowed engine": _compared(parts, "slowed", engine=engine, steps=steps),
        }
        if importlib.util.find_spec("vllm") is not None:
            with _server(folder):
                engine = f"use: vllm_server, servers: ['http://127.0.0.1:{PORT}']"
                served = partial(_compared, parts, engine=engine, steps=steps)
                result["real server"] = served("served", learning=1)
                result["real server, more learning"] = served("served_more", learning=1.5)
    return {**result, **circumstances()}


def _compared(
    parts: Callable[..., dict[str, float]],
    name: str,
    *,
    engine: str,
    steps: int,
    learning: float | None = None,
) -> dict[str, float]:
    """learning: of the time of generation, in whole epochs; 1, where the gain is largest. None: one epoch."""
    apart = parts(f"{name}_0", engine, steps=steps, staleness=0)
    epochs = 1
    if learning is not None:
        epochs = max(1, math.ceil(learning * apart["generate"] / apart["learn"] - 0.5))
        apart = parts(f"{name}_0e", engine, steps=steps, staleness=0, epochs=epochs)
    together = parts(f"{name}_1", engine, steps=steps, staleness=1, epochs=epochs)
    longer = max(apart["generate"], apart["learn"])
    return {
        "generate": round(apart["generate"], 3),
        "learn": round(apart["learn"], 3),
        "step apart": round(apart["total"], 3),
        "step together": round(together["total"], 3),
        "ratio": round(together["total"] / longer, 3),
        "saved": round(1 - together["total"] / apart["total"], 3),
    }


def _parts(
    folder: Path,
    name: str,
    engine: str,
    *,
    prompts: int,
    steps: int,
    staleness: int,
    epochs: int = 1,
) -> dict[str, float]:
    """Median seconds of a step of one run, on one core, and of its parts."""
    from rlcore.run.folder import read_rows

    recipe = folder / f"{name}.yaml"
    recipe.write_text(
        RECIPE.format(
            name=name,
            folder=folder,
            engine=engine,
            prompts=prompts,
            steps=steps,
            staleness=staleness,
            epochs=epochs,
        )
    )
    run = subprocess.run(
        [sys.executable, "-m", "rlcore", "train", str(recipe)],
        preexec_fn=lambda: _pin(0),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    if run.returncode:
        raise RunError(f"a run of the benchmark failed: {run.stderr.strip()[-400:]}")
    rows = read_rows(folder / name / "metrics.jsonl")[UNCOUNTED:]
    total = statistics.median(row["time/total"] for row in rows)
    generate = statistics.median(row["time/rollout"] for row in rows)
    print(f"{name}: {total:.2f} s a step, {generate:.2f} s of it generation", file=sys.stderr)
    return {"total": total, "generate": generate, "learn": total - generate}


@contextmanager
def _server(folder: Path) -> Iterator[None]:
    """A vLLM server of the recipe's model on the last core."""
    recipe = folder / "server.yaml"
    engine = "use: vllm_server"
    recipe.write_text(
        RECIPE.format(
            name="server",
            folder=folder,
            engine=engine,
            prompts=1,
            steps=1,
            staleness=0,
            epochs=1,
        )
    )
    command = [sys.executable, "-m", "rlcore", "serve", str(recipe), "--port", str(PORT)]
    process = subprocess.Popen(
        command,
        preexec_fn=lambda: _pin(-1),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        _wait_for(process)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait_for(process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + START_S
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("RLCORE_SERVERS"):
            return
        if time.monotonic() > until:
            break
    raise RunError("the server of the benchmark did not start; try `rlcore serve quickstart`")


def _pin(number: int) -> None:
    """Keep this process on one of the cores that it may use."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number]})
