"""How long vLLM servers take to get new weights: as files that they read, as files that they fetch, and by broadcast."""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers

from rlcore.bench.measure import Stopwatch, circumstances
from rlcore.bench.workload import make_model
from rlcore.learner.policy import load_policy
from rlcore.rollout.server_process import ServerProcesses, ServerSettings
from rlcore.rollout.vllm_server import VllmServers

HOST = "127.0.0.2"
"""This machine, by an address that `ServedWeights` takes for another one's."""
LENGTH = 64
WAYS: dict[str, dict[str, str]] = {
    "read": {"folder": "/dev/shm"},
    "fetched": {},
    "broadcast": {"transport": "broadcast"},
}


def bench_publish(
    *, model: str = "tiny", dtype: str = "float32", servers: int = 2, repeats: int = 5
) -> dict[str, Any]:
    """Median seconds of a load without its proof, in turn to the same servers; the first of each way is not counted.

    `read` is a folder in the memory of this machine, `fetched` HTTP, `broadcast` a process group. All is on one machine:
    nothing is said about its network.
    """
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = make_model(Path(name) / "model", model)
        policy = load_policy(path=folder, dtype=dtype)
        size = sum(tensor.nbytes for _, tensor in policy.weights())
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        with _engines(folder, dtype, servers) as engines:
            for number in range(repeats + 1):
                for way, engine in engines.items():
                    watch = Stopwatch()
                    engine.load(policy.weights(), engine.version + 1)
                    seconds[way].append(watch.read().wall)
                print(f"round {number} of {repeats}", file=sys.stderr)
    medians = {way: statistics.median(values[1:]) for way, values in seconds.items()}
    return {
        "bench": "publish",
        "servers": servers,
        "gigabytes": round(size / 1e9, 3),
        **{f"{way} s": round(value, 3) for way, value in medians.items()},
        "spread": {
            way: [round(min(v[1:]), 3), round(max(v[1:]), 3)] for way, v in seconds.items()
        },
        "fetched / broadcast": round(medians["fetched"] / medians["broadcast"], 2),
        **circumstances(),
    }


@contextmanager
def _engines(folder: str | Path, dtype: str, servers: int) -> Iterator[dict[str, VllmServers]]:
    """One engine for each way, over the same servers."""
    settings = ServerSettings(
        model=str(folder), dtype=dtype, max_length=LENGTH, max_sequences=8
    )
    processes = ServerProcesses(settings, servers, host=HOST)
    engines: dict[str, VllmServers] = {}
    try:
        for way, options in WAYS.items():
            engines[way] = VllmServers(
                folder,
                dtype=dtype,
                max_length=LENGTH,
                servers=processes.urls,
                **options,  # type: ignore[arg-type]
            )
        yield engines
    finally:
        for engine in engines.values():
            engine.close()
        processes.close()
