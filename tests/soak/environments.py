"""Faulty environments in a row: every episode is answered as without the faults of others, or has failed by its own.

python -m tests.soak.environments --count 500 --seed 0
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rlcore import Task
from rlcore.env.forms import EnvironmentSpec
from rlcore.env.pool import EnvironmentPool, Failed
from tests.soak.rewards import marked_processes

FAULTY = Path(__file__).parents[1] / "env" / "faulty.py"
CRASHES = (
    *("exit", "raise", "sys.exit", "interrupt", "segfault", "kill", "memory", "close", "daemon", "frames"),
    *("number", "messages", "nan", "text reward", "nan metric", "no JSON", "restart", "many"),
)
ANSWERED = ("huge", "fork", "surrogate")
"""Faults that cost nothing: what is said is cut, mended or said once."""
LATE = ("hang", "sleep")
"""Drawn less often: each costs a deadline."""
OUTSIDE = "kill -9 from outside"
DUE = {
    **dict.fromkeys(CRASHES, "crashed"),
    **dict.fromkeys(ANSWERED, "answered"),
    **dict.fromkeys(LATE, "timed-out"),
    OUTSIDE: "answered",
}
SLOW = (*LATE, "close", "many")
TURNS = 4
GOOD = 4
"""Episodes without a fault beside the faulty ones."""
WORKERS = 2
DEADLINE_S = 1.5
LIMIT_S = 120.0


@dataclass
class Told:
    """One episode: what it is told, and what was answered."""

    key: str
    fault: str
    at: int
    numbers: list[int]
    told: int = 0
    rewards: list[float] = field(default_factory=list)
    failed: Failed | None = None
    over: bool = False

    @property
    def expected(self) -> float:
        """The reward without anybody else's fault; a turn that goes wrong does not count its number."""
        skipped = self.numbers[self.at - 1] if self.fault in ANSWERED else 0
        return float(sum(self.numbers) - skipped)

    @property
    def problem(self) -> str:
        due = DUE.get(self.fault, "answered")
        if not self.over:
            return "no answer"
        if self.failed is not None:
            right = self.failed.status == due
            return "" if right else f"{self.failed.status} ({self.failed.reason}), not {due}"
        if due != "answered":
            return f"answered, not {due}"
        if self.rewards[-1] != self.expected:
            return f"reward {self.rewards[-1]:g}, not {self.expected:g}"
        return ""


def batch(pool: EnvironmentPool, number: int, fault: str, rng: random.Random) -> list[Told]:
    """Episodes side by side, one or two of which go wrong."""
    faults = ["" if fault == OUTSIDE else fault] + [""] * GOOD
    episodes = [
        Told(f"{number}/{i}", name, rng.randint(1, TURNS - 1), rng.choices(range(1, 9), k=TURNS))
        for i, name in enumerate(faults)
    ]
    rng.shuffle(episodes)
    waiting = {episode.key: episode for episode in episodes}
    for episode in episodes:
        columns = {"fault": episode.fault, "at": episode.at} if episode.fault else {}
        pool.reset(episode.key, Task(id="t", prompt="Count.", columns=columns), 0)
    kill_after = rng.randint(1, len(episodes) * TURNS) if fault == OUTSIDE else -1
    answers, end = 0, time.monotonic() + LIMIT_S
    while waiting and time.monotonic() < end:
        for key, answer in pool.poll(1.0):
            answers += 1
            if answers == kill_after:
                _kill(pool, rng)
            if _heard(waiting[key], answer):
                del waiting[key]
            else:
                _tell(pool, waiting[key])
    return episodes


def _heard(episode: Told, answer: object) -> bool:
    """Whether the episode is over with this answer."""
    if isinstance(answer, Failed):
        episode.failed = answer
        episode.over = True
    else:
        episode.rewards.append(answer.reward)
        episode.over = answer.done
    return episode.over


def _tell(pool: EnvironmentPool, episode: Told) -> None:
    text = str(episode.numbers[episode.told])
    episode.told += 1
    pool.step(episode.key, {"role": "assistant", "content": text})


def _kill(pool: EnvironmentPool, rng: random.Random) -> None:
    pid = rng.choice(pool.pids)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)


def run(count: int, seed: int) -> int:
    """The number of episodes that were not answered as is due, of workers that do not serve, and of processes that are left."""
    rng = random.Random(seed)
    names = [name for name in DUE for _ in range(1 if name in SLOW else 4)]
    rounds = [*DUE, *rng.choices(names, k=max(0, count - len(DUE)))]
    rng.shuffle(rounds)
    rounds = rounds[:count]
    began = time.monotonic()
    wrong, seen = 0, Counter(rounds)
    episodes = 0
    alive = 0
    pools = [
        EnvironmentPool(EnvironmentSpec(f"{FAULTY}:{name}"), workers=WORKERS, deadline_s=DEADLINE_S)
        for name in ("Counter", "Waiting")
    ]
    try:
        for number, fault in enumerate(rounds):
            for episode in batch(pools[number % 2], number, fault, rng):
                episodes += 1
                if episode.problem:
                    wrong += 1
                    name = episode.fault or f"good, beside {fault}"
                    print(f"{number} {name}: {episode.problem}", flush=True)
        for pool in pools:
            alive += _serving(pool)
    finally:
        for pool in pools:
            pool.close()
    time.sleep(1.0)
    left = marked_processes()
    print(
        f"{count} faults of {len(seen)} kinds, {episodes} episodes: {wrong} not as due; "
        f"{alive} of {2 * WORKERS} workers serve; {left} processes left; {time.monotonic() - began:.0f} s"
    )
    return wrong + left + (2 * WORKERS - alive)


def _serving(pool: EnvironmentPool) -> int:
    """How many workers answer."""
    keys = [f"last {number}" for number in range(WORKERS)]
    for key in keys:
        pool.reset(key, Task(id="t", prompt="Count."), 0)  # dealt to the workers in turn
    answers: dict[str, object] = {}
    end = time.monotonic() + LIMIT_S
    while len(answers) < WORKERS and time.monotonic() < end:
        answers.update(pool.poll(1.0))
    return sum(not isinstance(answer, Failed) for answer in answers.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return int(bool(run(arguments.count, arguments.seed)))


if __name__ == "__main__":
    sys.exit(main())
