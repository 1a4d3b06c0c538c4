"""Weights from one process to another: the file that servers read, and a broadcast, NCCL's where there are two GPUs.

`python -m rlcore.bench.device.transfer read FILE DEVICE` loads a file of weights; `broadcast RANK PORT BYTES` is one of two ranks.
Both print one line of JSON.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlcore.bench.device.case import CheckError, device_name
from rlcore.bench.measure import Stopwatch

DEADLINE_S = 100
REPEATS = 3


def by_file(model: str, dtype: str) -> dict[str, Any]:
    """Seconds to write all weights where servers look for them, and to read them in another process; their fingerprints agree."""
    import torch

    from rlcore.bench.workload import MODELS
    from rlcore.learner.policy import load_policy
    from rlcore.rollout.publish import fingerprint
    from rlcore.rollout.served_weights import ServedWeights

    policy = load_policy(
        config=MODELS[model], tokenizer="bytes", dtype=dtype, device=device_name()
    )
    served = ServedWeights("bench", [], folder=None, dtype=dtype, adapter=False)
    try:
        watch = Stopwatch()
        served.begin()
        served.write(policy.weights())
        written = watch.read().wall
        read_s, digests = 0.0, []
        for path, _ in served._files:
            said = _ask([["read", path, device_name()]])[0]
            read_s += said["seconds"]
            digests.append(said["fingerprint"])
        rounded = (w.to(getattr(torch, dtype)) for _, w in policy.weights())
        wanted = fingerprint(rounded, dtype)
        if len(digests) == 1 and digests[0] != wanted:
            raise CheckError(f"the reader's fingerprint is {digests[0]}, the writer's {wanted}")
        size = sum(size for _, size in served._files)
    finally:
        served.remove()
    return {
        "gb": round(size / 1e9, 3),
        "files": len(digests),
        "write_s": round(written, 3),
        "read_s": round(read_s, 3),
    }


def by_broadcast(size: int) -> dict[str, Any]:
    """Seconds to broadcast `size` bytes from one process to another: NCCL between two GPUs, gloo on a CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [["broadcast", str(rank), str(port), str(size)] for rank in range(2)]
    sent, received = _ask(ranks)
    if sent["fingerprint"] != received["fingerprint"]:
        raise CheckError("what was received is not what was sent")
    seconds = received["seconds"]
    return {**received, "gb": size / 1e9, "gb_per_s": round(size / 1e9 / seconds, 3)}


def _ask(commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """What processes of this module's `main`, run side by side, say."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "rlcore.bench.device.transfer", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    said = []
    for process in processes:
        out, err = process.communicate(timeout=DEADLINE_S)
        if process.returncode:
            raise CheckError(f"a process of the transfer failed: {err.strip()[-1500:]}")
        said.append(json.loads(out.splitlines()[-1]))
    return said


def main(argv: Sequence[str]) -> None:
    """See the top of this file."""
    if argv[0] == "read":
        result = _read(Path(argv[1]), argv[2])
    else:
        result = _broadcast(*map(int, argv[1:]))
    print(json.dumps(result))


def _read(path: Path, device: str) -> dict[str, Any]:
    from safetensors import safe_open

    from rlcore.rollout.publish import fingerprint

    watch = Stopwatch()
    with safe_open(path, "pt", device=device) as file:
        tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
    seconds = watch.read().wall
    return {"seconds": seconds, "fingerprint": fingerprint(tensors)}


def _broadcast(rank: int, port: int, size: int) -> dict[str, Any]:
    import torch
    import torch.distributed as dist

    from rlcore.rollout.broadcast_group import BroadcastGroup, contents_of
    from rlcore.rollout.publish import fingerprint

    use_nccl = torch.cuda.is_available() and torch.cuda.device_count() > 1
    backend = "nccl" if use_nccl else "gloo"
    if use_nccl:
        torch.cuda.set_device(rank)
    device = torch.device("cuda", rank) if use_nccl else torch.device("cpu")
    here = "127.0.0.1"
    store = dist.TCPStore(here, port, is_master=rank == 0, wait_for_workers=False)
    group = BroadcastGroup(store, rank, 2, name="bench", backend=backend, here=here)
    data = torch.randn(size // 4, generator=torch.Generator().manual_seed(0)).to(device)
    seconds = []
    for _ in range(1 + REPEATS):
        watch = Stopwatch()
        if rank == 0:
            group.give({"data": data}, DEADLINE_S)
            held = data
        else:
            [(_, held)] = group.take(
                contents_of({"data": data}), data.dtype, device, DEADLINE_S
            )
        seconds.append(watch.read().wall)
    return {
        "seconds": sum(seconds[1:]) / REPEATS,
        "backend": backend,
        "fingerprint": fingerprint([held]),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
