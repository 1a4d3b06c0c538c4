"""Environments that do wrong what their task's column `fault` names; without one they count."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from rlcore.env import Observation, environment


def note(log: str, text: str) -> None:
    with Path(log).open("a") as file:
        file.write(f"{text}\n")


def own_descriptors() -> list[int]:
    """All open ones but the standard streams: a worker's connection has whatever number its parent gave it."""
    # The listing's own descriptor is gone by the time it is returned.
    numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    return [number for number in numbers if number > 2 and Path(f"/proc/self/fd/{number}").exists()]


def commit(fault: str) -> object:
    """What goes wrong in a turn; what it replies, where it comes to that."""
    if fault == "hang":
        while True:
            pass
    if fault == "sleep":
        time.sleep(1000)
    if fault == "exit":
        os._exit(3)
    if fault == "raise":
        raise KeyError("x")
    if fault == "sys.exit":
        sys.exit(1)
    if fault == "interrupt":
        raise KeyboardInterrupt
    if fault == "segfault":
        ctypes.string_at(0)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "memory":
        return bytearray(6 << 30)
    if fault == "close":
        for descriptor in own_descriptors():
            os.close(descriptor)
    if fault == "daemon":
        code = "import os, time; os.setsid(); time.sleep(1000)"
        subprocess.Popen([sys.executable, "-c", code])
        os._exit(1)
    if fault == "fork":
        os.fork()
        time.sleep(0.05)
        return "forked"
    if fault == "frames":
        for descriptor in own_descriptors():
            try:
                os.write(descriptor, b"\0\0\0\0\0\0\0\x017" * 3)
            except OSError:
                continue
        return "x"
    return {
        "huge": "a" * 50_000_000,
        "many": [{"role": "user", "content": "x" * 900}] * 100_000,
        "number": 7,
        "messages": [{"role": "user"}],
        "nan": Observation("x", reward=float("nan")),
        "text reward": Observation("x", reward="high"),
        "nan metric": Observation("x", metrics={"m": float("inf")}),
        "no JSON": Observation([{"role": "user", "content": "x", "at": b"1"}]),
        "surrogate": "half \ud800 of a pair",
        "restart": Observation("x", restart=True),
    }[fault]


class Counter:
    """Replies with the sum of the numbers that it was told; `fault at` says in which turn it goes wrong."""

    def reset(self, fault: str = "", at: int = 1, log: str = "") -> str:
        self.total, self.turn, self.fault, self.at, self.log = 0, 0, fault, at, log
        if log:
            note(log, "reset")
        return "go"

    def step(self, message: dict) -> object:
        self.turn += 1
        if self.fault and self.turn == self.at:
            if self.log:
                note(self.log, self.fault)
            return commit(self.fault)
        self.total += int(message["content"])
        if self.turn == 4:
            return Observation(done=True, reward=float(self.total))
        return f"{self.total}"

    def close(self) -> None:
        if self.log:
            note(self.log, "close")


class Waiting(Counter):
    """The same, async: its episodes run side by side."""

    async def step(self, message: dict) -> object:
        if self.fault == "waits":
            await asyncio.sleep(1000)
        await asyncio.sleep(0.02)
        return super().step(message)


class Broken:
    def __init__(self) -> None:
        raise LookupError("no such server")

    def reset(self) -> None: ...

    def step(self, message: dict) -> None: ...


class Random:
    """Equal completions get other replies: cannot be rebuilt."""

    def reset(self, fault: str = "") -> str:
        self.fault = fault
        return str(os.urandom(4))

    def step(self, message: dict) -> str:
        if self.fault:
            commit(self.fault)
        return "same"


@environment
def slow(seconds: float = 0.3, **columns: object):
    yield "go"
    time.sleep(seconds)
    return 1.0
