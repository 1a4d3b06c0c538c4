"""A small environment for whole runs: guess a digit. `trouble` makes some episodes fail, by task and completion."""

from __future__ import annotations

import os
import random
import time

from rlcore.env import Observation, environment
from rlcore.types import Task

TROUBLE = ("hang", "die", "raise", "huge", "types", "nan", "exit", "fork")


def digits(size: int = 64, seed: int = 0) -> list[Task]:
    """Demonstrations guess at random within what is still possible."""
    rng = random.Random(seed)
    tasks = []
    for number in range(size):
        answer = rng.randint(0, 9)
        low, high, said, word = 0, 9, [], ""
        while not said or said[-1]["content"] != str(answer):
            guess = rng.randint(low, high)
            if said:
                said.append({"role": "user", "content": word})
            said.append({"role": "assistant", "content": str(guess)})
            low, high = (guess + 1, high) if guess < answer else (low, guess - 1)
            word = "+" if guess < answer else "-"
        tasks.append(
            Task(id=f"digit/{seed}/{number}", prompt="?", answer=answer, demonstration=said)
        )
    return tasks


@environment
def guess(answer: int, seed: int, trouble: float = 0.0, restart: bool = False, **columns):
    """restart: every reply replaces the prompt, so each turn is a training sequence of its own."""
    said = yield Observation(state="start")
    for turn in range(3):
        value = int(said) if said.strip().isdigit() and len(said) < 5 else -1
        if random.Random(f"{seed}/{said}/{turn}").random() < trouble:
            fault = TROUBLE[random.Random(f"{seed}/{said}/{turn}/kind").randrange(len(TROUBLE))]
            yield commit(fault)
        if value == answer:
            return 1.0
        word = "+" if value < answer else "-"
        state = f"{turn}{word}"
        if restart:
            reply = [{"role": "user", "content": f"?{word}"}]
            said = yield Observation(reply, restart=True, state=state)
        else:
            said = yield Observation(word, reward=0.1 if value >= 0 else 0.0, state=state)
    return 0.0


def commit(fault: str):
    if fault == "hang":
        time.sleep(600)
    if fault == "die":
        os.kill(os.getpid(), 9)
    if fault == "raise":
        raise ValueError("trouble")
    if fault == "exit":
        raise SystemExit
    if fault == "huge":
        return "x" * 50_000_000
    if fault == "types":
        return {1, 2, 3}
    if fault == "nan":
        return Observation("y", reward=float("nan"))
    if os.fork() == 0:
        time.sleep(600)
    os._exit(1)
