"""One worker process that runs reward functions, as its parent sees it.

The child (`rlcore.scoring.child`) is a fresh interpreter. It gets the reward specs and replies
"ready", or what could not be loaded; then it serves calls. Every reply carries the number of its
call and the process id of its sender. A reward that forks and lets the child process return would
otherwise shift all later replies by one: a reply that does not fit makes the worker lost.
"""

from __future__ import annotations

import pickle
import socket
import struct
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal, NamedTuple

from rlcore.errors import RewardError
from rlcore.scoring.forms import GroupView, RewardSpec
from rlcore.workers.process import WorkerProcess

LOAD_DEADLINE_S = 600.0
"""For importing rewards and constructing classes: a model may have to be read from disk."""
GRACE_S = 1.0
"""Concurrent calls are cut in the worker, at their deadline; the parent waits this much longer."""
Mode = Literal["each", "batch", "concurrent"]
"""How a reward is called first: one completion at a time, one call per group, or all at once."""


class Loaded(NamedTuple):
    """What the child says of each reward once it is imported."""

    mode: Mode
    needs: tuple[str, ...]
    """Columns of the task without which it cannot be called: `Reward.needs`."""


LOADED = 0
"""Number of the reply that says whether the rewards were loaded; calls count from 1."""


class Call(NamedTuple):
    """What the parent sends."""

    number: int
    index: int
    """Of the reward."""
    whole: bool
    """Whether to score the group at once and send one reply; else one reply per completion."""
    size: int
    """Completions in the group."""
    view: bytes
    """The pickled `GroupView`: the child can answer a call even if it cannot read this."""


class Reply(NamedTuple):
    """What the child sends."""

    number: int
    pid: int
    content: Any


class WorkerLost(Exception):
    """The worker gave no usable reply. `status` is "timed-out" or "crashed"."""

    def __init__(self, status: Literal["timed-out", "crashed"], reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Worker:
    """The parent's handle of one worker process.

    A lost worker is killed together with all processes that it started, and replaced at once.
    """

    def __init__(
        self, specs: Sequence[RewardSpec], *, deadline_s: float, memory_gb: float | None
    ) -> None:
        self._setup = pickle.dumps((list(specs), deadline_s, memory_gb))
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._closed = False
        self._loaded = False
        self._number = LOADED
        self._process = WorkerProcess("rlcore.scoring.child:serve")
        self._pipe: Connection | None = None
        self._rewards: list[Loaded] = []
        self.restart()

    @property
    def pid(self) -> int | None:
        """Process id, None once closed."""
        return self._process.pid

    @property
    def loaded(self) -> bool:
        """Whether the rewards are imported."""
        return self._loaded

    def ready(self) -> None:
        """Wait until the rewards are imported. Raises `RewardError` if they cannot be."""
        if self._loaded:
            return
        try:
            kind, content = self._receive(LOADED, LOAD_DEADLINE_S)
        except WorkerLost as lost:
            raise RewardError(
                f"the reward worker did not start: {lost.reason} while importing the rewards"
            ) from None
        if kind == "failed":
            raise RewardError(content)
        self._rewards = content
        self._loaded = True

    def reward(self, index: int) -> Loaded:
        """What is known of reward `index` since it was imported."""
        return self._rewards[index]

    def send(self, index: int, view: GroupView, *, whole: bool) -> None:
        """Start a call of reward `index`. Raises `WorkerLost`."""
        call = Call(self._number + 1, index, whole, len(view), pickle.dumps(view))
        try:
            assert self._pipe is not None
            self._pipe.send(tuple(call))
        except OSError as error:
            raise self._lost(error) from None

    def receive(self, grace_s: float = 0.0) -> Any:
        """The next reply to the running call.

        Raises `WorkerLost` if none comes before the deadline, or the worker dies.
        """
        self._number += 1
        return self._receive(self._number, self._deadline_s + grace_s)

    def restart(self) -> None:
        """Kill the process and start a new one, without waiting until it is ready."""
        with self._lock:
            self._process.kill()
            if self._pipe is not None:
                self._pipe.close()
            if not self._closed:
                self._start()

    def close(self) -> None:
        """Kill the process for good."""
        with self._lock:
            self._closed = True
            self._process.kill()

    def _receive(self, number: int, deadline_s: float) -> Any:
        try:
            assert self._pipe is not None
            if not self._pipe.poll(deadline_s):
                raise WorkerLost("timed-out", f"no reply within {deadline_s:g} s")
            message = self._pipe.recv()
        except WorkerLost:
            raise
        except (OSError, EOFError) as error:
            raise self._lost(error) from None
        except Exception as error:  # unpickling can raise anything
            reason = f"its reply cannot be read ({type(error).__name__}: {error})"
            raise WorkerLost("crashed", reason) from None
        if not _fits(message, number, self.pid):
            raise WorkerLost(
                "crashed",
                "the worker sent a reply that belongs to no call: "
                "a process that the reward forked must end by itself, with os._exit",
            )
        return message[2]

    def _lost(self, error: Exception) -> WorkerLost:
        return WorkerLost("crashed", self._process.cause_of_death(error))

    def _start(self) -> None:
        ours = self._process.start()
        # A worker that stops reading, or dies in the middle of a message, must not block the
        # parent for ever.
        limit = struct.pack("ll", max(1, int(self._deadline_s)), 0)
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, limit)
        self._pipe = Connection(ours.detach())
        self._loaded = False
        self._number = LOADED
        self._pipe.send_bytes(self._setup)


def _fits(message: Any, number: int, pid: int | None) -> bool:
    """Whether a message is the reply with this number, sent by the worker process itself."""
    if not isinstance(message, tuple) or len(message) != 3:
        return False
    return message[:2] == (number, pid)
