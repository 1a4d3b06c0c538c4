"""Faulty rewards in a row: every completion gets the due status, and the pool ends at full strength.

python -m tests.soak.rewards --count 1000 --seed 0
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from rlcore import RewardSpec, Task
from rlcore.scoring.scorer import Scorer
from rlcore.types import Rollout
from rlcore.workers.strays import MARK

REWARD = """
import ctypes, os, signal, subprocess, sys, time

from rlcore import reward

@reward
def score(completion, answer):
    if completion == "good":
        return 3.0
    if completion == "hang":
        while True: pass
    if completion == "sleep": time.sleep(1000)
    if completion == "exit": os._exit(3)
    if completion == "sys.exit": sys.exit(1)
    if completion == "segfault": ctypes.string_at(0)
    if completion == "kill": os.kill(os.getpid(), signal.SIGKILL)
    if completion == "group": os.killpg(0, signal.SIGKILL)
    if completion == "memory": return float(len(bytearray(6 << 30)))
    if completion == "raise": raise KeyError("x")
    if completion == "interrupt": raise KeyboardInterrupt
    if completion == "close": os.closerange(3, 100)
    if completion == "daemon":
        subprocess.Popen([sys.executable, "-c", "import os, time; os.setsid(); time.sleep(1000)"])
        os._exit(1)
    if completion == "fork":
        if os.fork() == 0: return 9.0
        time.sleep(0.3)
    if completion == "text": return "high"
    if completion == "none": return None
    if completion == "nan": return float("nan")
    return 3.0
"""
DUE = {
    "hang": "timed-out", "sleep": "timed-out", "none": "unscorable", "nan": "unscorable", "exit": "crashed",
    "sys.exit": "crashed", "segfault": "crashed", "kill": "crashed", "group": "crashed", "memory": "crashed",
    "raise": "crashed", "interrupt": "crashed", "close": "crashed", "daemon": "crashed", "fork": "crashed",
    "text": "crashed",
}  # fmt: skip
SLOW = ("hang", "sleep")
"""Drawn less often: each costs a deadline."""


def rollout(text: str) -> Rollout:
    return Rollout.from_tokens(
        id="r", task_id="t", token_ids=[1, 2], mask=[0, 1], logprobs=[0.0, 0.0], text=text, finish="stop", version=0
    )  # fmt: skip


def marked_processes() -> int:
    """Processes with the mark of a reward worker that this process started."""
    number = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            number += f"{MARK}={os.getpid()}-".encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
    return number


def run(count: int, seed: int) -> int:
    """The number of verdicts that are not the due ones, and of processes that are left."""
    rng = random.Random(seed)
    names = [name for name in DUE for _ in range(1 if name in SLOW else 6)]
    faults = [rng.choice(names) for _ in range(count)]
    began = time.monotonic()
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "faulty.py").write_text(REWARD)
        spec = RewardSpec(f"{place}/faulty.py:score")
        task = Task(id="t", prompt="p", answer="a")
        with Scorer([spec], workers=2, deadline_s=1.5) as scorer:
            for number, fault in enumerate(faults):
                texts = [fault, "good"]
                rng.shuffle(texts)
                for text, verdict in zip(
                    texts, scorer.score([(task, [rollout(t) for t in texts])])[0], strict=True
                ):
                    due = "ok" if text == "good" else DUE[text]
                    if verdict.status != due or (text == "good" and verdict.value != 3.0):
                        wrong += 1
                        print(
                            f"{number} {text}: {verdict.status} {verdict.value} ({verdict.reason})"
                        )
            verdicts = scorer.score([(task, [rollout("good")])] * 200)
            wrong += sum(verdict[0].value != 3.0 for verdict in verdicts)
            alive = sum(worker.loaded for worker in scorer._workers)
    time.sleep(1.0)
    left = marked_processes()
    print(
        f"{count} faults: {wrong} wrong verdicts, {alive} of 2 workers serve, {left} processes left, "
        f"{time.monotonic() - began:.0f} s"
    )
    return wrong + left + (2 - alive)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return int(bool(run(arguments.count, arguments.seed)))


if __name__ == "__main__":
    sys.exit(main())
