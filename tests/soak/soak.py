"""A long rl run under faults, watched: memory, file handles and processes stay flat, and the metrics are those of a quiet run.

    python -m tests.soak.soak --minutes 60 --seed 0 [--objective gspo]

The reward gives each completion a value that depends on its text, and crashes, exits or kills its group
on some, by their text too: every run meets the same faults. One run that nothing else disturbs fixes
what must come out. Then the same run is made again and again. In every second one the process is killed
by SIGKILL at `KILLS` random moments, during its start or after a random step, and resumed, which starts its
engine anew: it must leave the same models, metrics and rollouts. In the others the reward workers are
killed from outside, which costs verdicts and nothing else. In all of them each verdict that a rollout has
must be that of its own text. Watched are resident memory, open files and threads of the run's process and
of its reward workers: their median in the last third may not lie over 3% above that of the middle third.
No worker may outlive its run.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import runpy
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from rlcore.run.folder import read_rows
from rlcore.workers.strays import MARK
from tests.run.whole import Process, start
from tests.soak.kill import HEAD, compare, left_by
from tests.soak.rewards import DUE, REWARD

GROWTH = 1.03
SFT_STEPS = 5
KILLS = 3
WATCH_S = 0.25
SHORTEST = 80
"""Fewest statuses of a third of a process's life that are compared: in a shorter one its start is compared too."""
STAGES = """
stages:
  - {kind: sft, tasks: train, steps: SFT_STEPS, batch_size: 8, optim: {lr: 1e-2}}
  - {kind: rl, tasks: train, steps: STEPS, groups_per_step: 4, group_size: 4, objective: OBJECTIVE, optim: {lr: 1e-5},
     rewards: [{use: length, max_tokens: 4}, {use: "FOLDER/faulty.py:score", weight: 1.0}],
     scoring: {workers: 2, deadline_s: 30}}
run: {checkpoint_every: 10}
"""
# A fault for one text in 128. Value and fault depend on the text alone.
BY_TEXT = """

import hashlib
_inner = score
_names = NAMES

def number_of(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")

def value_of(text):
    return number_of(text) // 1024 % 5 / 4

@reward
def score(completion, answer):
    number = number_of(completion)
    if number % 128 == 0:
        return _inner(_names[number // 128 % len(_names)], answer)
    return value_of(completion)
"""
Status = tuple[int, int, int]
"""Resident memory in kB, open files and threads."""


def write(folder: Path, steps: int, objective: str) -> Path:
    folder.mkdir(parents=True)
    names = [name for name in DUE if name not in ("hang", "sleep", "fork")]
    (folder / "faulty.py").write_text(REWARD + BY_TEXT.replace("NAMES", repr(names)))
    text = HEAD.replace("rewards: [{use: length, max_tokens: 4}]\nscoring: {workers: 1}\n", "")
    text += (
        STAGES.replace("SFT_STEPS", str(SFT_STEPS))
        .replace("STEPS", str(steps))
        .replace("OBJECTIVE", objective)
        .replace("FOLDER", str(folder))
    )
    path = folder / "tiny.yaml"
    path.write_text(text + f"run.folder: {folder / 'runs'}\n")
    return path


def status(pid: int) -> Status | None:
    """Status of a process, None if it is gone."""
    with contextlib.suppress(OSError, KeyError, ValueError):
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


class Attempt:
    """One process of a run, from its start to its end, with the statuses of it and of its reward workers."""

    def __init__(self, recipe: Path) -> None:
        self.metrics = recipe.parent / "runs/tiny/metrics.jsonl"
        self.process: Process = start("train", recipe, "--resume")
        self.pid = self.process._process.pid
        self.history: list[Status] = []
        self.workers: dict[int, list[Status]] = defaultdict(list)

    def watch(self) -> Iterator[None]:
        """Note the statuses until the process has ended; yields after each look."""
        while self.process.poll() is None:
            if now := status(self.pid):
                self.history.append(now)
            for worker in workers_of(self.pid):
                if now := status(worker):
                    self.workers[worker].append(now)
            yield
            time.sleep(WATCH_S)

    def until_end(self, rng: random.Random, *, kill_workers: bool) -> None:
        began = False
        for _ in self.watch():
            # A reward that cannot even be imported when a stage starts ends the run.
            began = began or len(read_rows(self.metrics)) > SFT_STEPS
            if kill_workers and began and rng.random() < 0.02:
                for worker in workers_of(self.pid)[:1]:
                    with contextlib.suppress(OSError):
                        os.kill(worker, signal.SIGKILL)
        self._end(0)

    def until_killed(self, rng: random.Random, after_row: int) -> None:
        """Kill the process a moment after its metrics have so many rows; for 0 during its start."""
        wait_s = rng.uniform(0, 0.5 if after_row else 3)
        for _ in self.watch():
            if len(read_rows(self.metrics)) >= after_row:
                time.sleep(wait_s)
                self.process.send_signal(signal.SIGKILL)
                break
        self._end(-signal.SIGKILL)

    def _end(self, expected: int) -> None:
        _, err = self.process.communicate(timeout=300)
        assert self.process.returncode == expected, f"exit {self.process.returncode}: {err}"
        until = time.monotonic() + 10
        while workers_of(self.pid):
            assert time.monotonic() < until, "reward workers outlive their run"
            time.sleep(0.1)

    def growths(self) -> list[list[float]]:
        every = [growth(history) for history in (self.history, *self.workers.values())]
        return [values for values in every if values]


def one_run(
    folder: Path, steps: int, rng: random.Random, faults: str, objective: str
) -> list[Attempt]:
    """Run to the end. faults: "kills", "workers", or "" for none but those of the reward."""
    if folder.exists():
        shutil.rmtree(folder)
    recipe = write(folder, steps, objective)
    attempts = []
    if faults == "kills":
        # The first kill falls into the start; the last leaves steps to do.
        for after_row in (0, *sorted(rng.sample(range(1, steps - 30), KILLS - 1))):
            attempts.append(Attempt(recipe))
            attempts[-1].until_killed(rng, after_row)
    attempts.append(Attempt(recipe))
    attempts[-1].until_end(rng, kill_workers=faults == "workers")
    return attempts


def growth(history: list[Status]) -> list[float]:
    """Last third over middle third: memory, open files, threads; [] where too little was seen."""
    third = len(history) // 3
    if third < SHORTEST:
        return []
    columns = zip(*history, strict=True)
    return [
        statistics.median(column[-third:]) / statistics.median(column[third:-third])
        for column in columns
    ]


def wrong_verdicts(folder: Path) -> tuple[int, int]:
    """Rollouts whose verdict is not that of their text, and rollouts without one."""
    module = runpy.run_path(str(folder / "faulty.py"))
    wrong = unscored = 0
    for file in (folder / "runs/tiny/rollouts").glob("*.jsonl"):
        for row in read_rows(file):
            if row["status"] == "ok":
                wrong += row["parts"]["score"] != module["value_of"](row["text"])
            else:
                unscored += 1
    return wrong, unscored


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, default=1000, help="of each run, at least 50")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--objective",
        default="grpo",
        help="a preset; one that is no sum over tokens, as gspo, takes another way through the learner",
    )
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    until = time.monotonic() + 60 * arguments.minutes
    problems = kills = steps = 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "soak"
        wanted = None
        for number, faults in enumerate(
            itertools.chain([""], itertools.cycle(["kills", "workers"]))
        ):
            if number and time.monotonic() > until:
                break
            began = time.monotonic()
            attempts = one_run(folder, arguments.steps, rng, faults, arguments.objective)
            run = folder / "runs/tiny"
            rows = read_rows(run / "metrics.jsonl")
            wrong, unscored = wrong_verdicts(folder)
            differing = (
                [] if faults == "workers" else compare(wanted or left_by(run), left_by(run))
            )
            wanted = wanted or left_by(run)
            growths = [values for attempt in attempts for values in attempt.growths()]
            grown = [values for values in growths if max(values) > GROWTH]
            complete = [row["step"] for row in rows] == list(
                range(1, arguments.steps + SFT_STEPS + 1)
            )
            problems += bool(differing) + bool(grown) + bool(wrong) + (not complete)
            kills += len(attempts) - 1
            steps += len(rows)
            print(
                f"run {number} ({faults or 'quiet'}): {len(rows)} steps in {time.monotonic() - began:.0f} s, "
                f"{rows[-1]['policy_version']} versions, {len(attempts) - 1} kills, "
                f"{sum(len(attempt.workers) for attempt in attempts)} workers, {unscored} completions unscored, "
                f"{wrong} with a wrong verdict, differs in {differing or 'nothing'}, largest growth of memory, files "
                f"and threads of {len(growths)} processes "
                f"{[round(max(column), 3) for column in zip(*growths, strict=True)]}",
                flush=True,
            )
    print(f"{number} runs, {steps} steps, {kills} kills, {problems} problems")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
