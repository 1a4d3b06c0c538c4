"""A long rl run under faults, watched: memory, file handles and processes stay flat, and the metrics are those of a quiet run.

    python -m tests.soak.soak --minutes 60 --seed 0

Its reward crashes, exits or kills its group on some completions (by their text: every run meets the
same). One quiet run fixes what must come out. Then the same run is made again and again: in turn it is
killed by SIGKILL at random moments and resumed, which starts its engine anew, and must leave the same
models, metrics and rollouts; or its reward workers are killed from outside, which costs verdicts. Watched
are resident memory, open files and threads of the run's process: their median in the last third
may not lie over 3% above that of the middle third. No worker may outlive its run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rlcore.run.folder import read_rows
from rlcore.scoring.strays import MARK
from tests.run.whole import Process, start
from tests.soak.kill import HEAD, compare, left_by
from tests.soak.rewards import DUE, REWARD

GROWTH = 1.03
STAGES = """
stages:
  - {kind: sft, tasks: train, steps: 5, batch_size: 8, optim: {lr: 1e-2}}
  - {kind: rl, tasks: train, steps: STEPS, groups_per_step: 4, group_size: 4, optim: {lr: 1e-4},
     rewards: [{use: length, max_tokens: 4}, {use: "FOLDER/faulty.py:score", weight: 0.1, optional: true}],
     scoring: {workers: 2, deadline_s: 2}}
run: {checkpoint_every: 10}
"""
# A fault for one text in 64: which one depends on the text alone.
BY_TEXT = """

import hashlib
_inner = score
_names = NAMES

@reward
def score(completion, answer):
    number = hashlib.blake2b(completion.encode(), digest_size=2).digest()
    number = int.from_bytes(number, "big")
    if number % 64 == 0:
        return _inner(_names[number // 64 % len(_names)], answer)
    return 1.0
"""


def write(folder: Path, steps: int) -> Path:
    folder.mkdir(parents=True)
    names = [name for name in DUE if name not in ("hang", "sleep", "fork")]
    (folder / "faulty.py").write_text(REWARD + BY_TEXT.replace("NAMES", repr(names)))
    text = HEAD.replace("rewards: [{use: length, max_tokens: 4}]\nscoring: {workers: 1}\n", "")
    text += STAGES.replace("STEPS", str(steps)).replace("FOLDER", str(folder))
    path = folder / "tiny.yaml"
    path.write_text(text + f"run.folder: {folder / 'runs'}\n")
    return path


def status(pid: int) -> tuple[int, int, int] | None:
    """Resident memory in kB, open files and threads of a process."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines if ":" in line)
        files = len(os.listdir(f"/proc/{pid}/fd"))
        return int(values["VmRSS"].split()[0]), files, int(values["Threads"])
    return None


def workers_of(pid: int) -> list[int]:
    """Reward workers of a process, by their mark."""
    marked = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={pid}-".encode() in (entry / "environ").read_bytes():
                marked.append(int(entry.name))
    return marked


def watched(
    process: Process, rng: random.Random, faults: str
) -> Iterator[tuple[int, int, int]]:
    """The status of the run's process each half second. faults: "kills", "workers", or "" for none."""
    pid = process._process.pid
    kill_at = time.monotonic() + rng.uniform(1, 20)
    while process.poll() is None:
        time.sleep(0.5)
        now = status(pid)
        if now:
            yield now
        if faults == "workers" and rng.random() < 0.05:
            for worker in workers_of(pid)[:1]:
                with contextlib.suppress(OSError):
                    os.kill(worker, signal.SIGKILL)
        if faults == "kills" and time.monotonic() > kill_at:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGKILL)
            return


def one_run(
    folder: Path, steps: int, rng: random.Random, faults: str
) -> list[list[tuple[int, int, int]]]:
    """Run to the end, through kills. The statuses of each process."""
    if folder.exists():
        shutil.rmtree(folder)
    recipe = write(folder, steps)
    histories = []
    while True:
        process = start("train", recipe, "--resume")
        pid = process._process.pid
        histories.append(list(watched(process, rng, faults)))
        _, err = process.communicate(timeout=300)
        time.sleep(2)
        assert not workers_of(pid), "reward workers outlive their run"
        if process.returncode == 0:
            return histories
        assert process.returncode == -9, err


def growth(history: list[tuple[int, int, int]]) -> list[float]:
    """Last third over middle third: memory, open files, threads; [] where too little was seen."""
    third = len(history) // 3
    if third < 20:
        return []
    columns = zip(*history, strict=True)
    return [
        statistics.median(column[-third:]) / statistics.median(column[third:-third])
        for column in columns
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    until = time.monotonic() + 60 * arguments.minutes
    problems = runs = kills = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "soak"
        began = time.monotonic()
        quiet = one_run(folder, arguments.steps, rng, "")
        wanted = left_by(folder / "runs/tiny")
        rows = read_rows(folder / "runs/tiny/metrics.jsonl")
        failed = statistics.fmean(row.get("reward/frac_unscored", 0) for row in rows)
        print(
            f"quiet run: {len(rows)} steps in {time.monotonic() - began:.0f} s, {failed:.1%} of completions unscored, "
            f"growth {growth(quiet[-1])}",
            flush=True,
        )
        while time.monotonic() < until:
            faults = ("kills", "workers")[runs % 2]
            histories = one_run(folder, arguments.steps, rng, faults)
            runs += 1
            kills += len(histories) - 1
            left = left_by(folder / "runs/tiny")
            differing = compare(wanted, left) if faults == "kills" else []
            grown = [growth(history) for history in histories]
            bad = [values for values in grown if values and max(values) > GROWTH]
            problems += bool(differing) + bool(bad)
            print(
                f"run {runs} ({faults}): {len(histories) - 1} kills, differs in {differing or 'nothing'}, growth {grown}",
                flush=True,
            )
    print(f"{runs} runs, {kills} kills, {problems} problems")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
