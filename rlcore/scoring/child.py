"""The inside of a worker process: it loads the rewards and serves calls.

It imports this file and the rewards, nothing else: not the main program, no torch. Whatever a
plugin prints goes to stderr.
"""

from __future__ import annotations

import math
import os
import pickle
import resource
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from rlcore.errors import RewardError
from rlcore.scoring.call import GroupCrash, Reward, error_text
from rlcore.scoring.load import load_reward
from rlcore.scoring.worker import LOADED, Call, Loaded, Mode, Reply
from rlcore.types import Verdict
from rlcore.workers.process import die_with


def serve(descriptor: int, parent: int) -> None:
    """The main loop."""
    pipe = Connection(descriptor)
    threading.Thread(target=die_with, args=(parent,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    specs, deadline_s, memory_gb = pipe.recv()
    try:
        rewards = [load_reward(spec) for spec in specs]
    except RewardError as error:
        _send(pipe, LOADED, ("failed", str(error)))
        return
    _limit_memory([getattr(reward.function, "memory_gb", memory_gb) for reward in rewards])
    loaded = [Loaded(_mode(reward), reward.needs) for reward in rewards]
    _send(pipe, LOADED, ("ready", loaded))
    while True:
        try:
            call = Call(*pipe.recv())
        except EOFError:
            return
        number = call.number
        for content in _replies(call, rewards[call.index], deadline_s):
            _send(pipe, number, content)
            number += 1


def _replies(call: Call, reward: Reward, deadline_s: float) -> Iterator[Any]:
    """The contents of the replies to a call; one that holds a str says why a group failed."""
    try:
        view = pickle.loads(call.view)
    except (
        Exception
    ) as error:  # a column of a type that this process cannot import, for example
        reason = f"the task cannot be read by the worker ({type(error).__name__}: {error})"
        failed = Verdict(value=None, status="crashed", reason=reason)
        yield from [[failed] * call.size] if call.whole else [failed] * call.size
        return
    if not call.whole:
        for i in range(len(view)):
            yield _portable(reward.one(view, i))
        return
    try:
        yield [_portable(verdict) for verdict in reward.group(view, deadline_s)]
    except GroupCrash as crash:
        yield str(crash)


def _send(pipe: Connection, number: int, content: Any) -> None:
    pipe.send(tuple(Reply(number, os.getpid(), content)))


def _mode(reward: Reward) -> Mode:
    if reward.form == "batch":
        return "batch"
    return "concurrent" if reward.is_async else "each"


def _limit_memory(limits_gb: list[float | None]) -> None:
    """Limit the data segment by the largest wish; no limit if one reward asks for none."""
    wishes = [limit for limit in limits_gb if limit]
    if len(wishes) == len(limits_gb):
        size = int(max(wishes) * 2**30)
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def _portable(verdict: Verdict) -> Verdict:
    """The same verdict in plain Python numbers: the parent may not know a plugin's scalar types."""
    try:
        value = _finite(verdict.value)
        parts = {str(name): _finite(part) for name, part in verdict.parts.items()}
        reason = str(verdict.reason)[:1000]
        status = str(verdict.status)
    except BaseException as error:  # a plugin's own types may raise anything
        return Verdict(value=None, status="crashed", reason=f"its verdict: {error_text(error)}")
    if value is None and verdict.value is not None:
        status, reason = "unscorable", "the value of its verdict is not finite"
    return Verdict(value=value, status=status, parts=parts, reason=reason)  # type: ignore[arg-type]


def _finite(number: Any) -> float | None:
    """A plain number; None for one that has no meaning in a sum or a mean."""
    if number is None or not math.isfinite(number):
        return None
    return float(number)
