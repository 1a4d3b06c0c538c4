"""One worker process that runs reward functions, seen from both sides of its socket.

The child is a fresh interpreter that imports this file and the rewards, nothing else: not the main program, no torch. It
gets the reward specs, says "ready" (or what could not be loaded), then serves calls `(reward index, GroupView, whole)`. With
`whole` it scores the group at once and sends one message, else it scores answer by answer and sends a message for each,
so that the parent knows which answer is running. Whatever a plugin prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, Literal

from rlcore.errors import RewardError
from rlcore.scoring.call import GroupCrash, Reward
from rlcore.scoring.forms import GroupView, RewardSpec
from rlcore.scoring.load import load_reward
from rlcore.types import Verdict

LOAD_DEADLINE_S = 600.0
"""For importing the rewards and making those that are classes: a model may have to be read from disk."""
GRACE_S = 1.0
"""Calls that run side by side in a worker are cut there, at their deadline; the parent waits this much longer."""
Manner = Literal["each", "group", "side by side"]
"""How a reward is called first: answer by answer, once for a group, or with all calls of a group at the same time."""
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rlcore.scoring.worker import serve; serve(*map(int, sys.argv[2:]))"
)


class WorkerLost(Exception):
    """The worker gave no reply. `status` is "timed-out" or "crashed"."""

    def __init__(self, status: Literal["timed-out", "crashed"], reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Worker:
    """The parent's hold on one worker process. A lost worker is killed with all its children and started again at once."""

    def __init__(
        self, specs: Sequence[RewardSpec], *, deadline_s: float, memory_gb: float | None
    ) -> None:
        self._errand, self._deadline_s = (
            pickle.dumps((list(specs), deadline_s, memory_gb)),
            deadline_s,
        )
        self._folder, self._path = os.getcwd(), json.dumps(sys.path)
        self._lock = threading.Lock()
        self._closed = self._loaded = False
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._manners: list[Manner] = []
        self.restart()

    @property
    def pid(self) -> int | None:
        """Process id, None once closed."""
        return self._process.pid if self._process else None

    def ready(self) -> None:
        """Wait until the rewards are imported. Raises `RewardError` if they cannot be."""
        if self._loaded:
            return
        try:
            kind, content = self._receive(LOAD_DEADLINE_S)
        except WorkerLost as lost:
            raise RewardError(
                f"the reward worker did not come up: {lost.reason} while importing the rewards"
            ) from None
        if kind == "failed":
            raise RewardError(content)
        self._manners, self._loaded = content, True

    def manner(self, index: int) -> Manner:
        """How reward `index` is called first."""
        return self._manners[index]

    def send(self, index: int, view: GroupView, *, whole: bool) -> None:
        """Start a call of reward `index`. Raises `WorkerLost`."""
        try:
            assert self._pipe is not None
            self._pipe.send((index, view, whole))
        except OSError as error:
            raise self._lost(error) from None

    def receive(self, grace_s: float = 0.0) -> Any:
        """The next reply of the running call. Raises `WorkerLost` if none comes before the deadline or the worker dies."""
        return self._receive(self._deadline_s + grace_s)

    def restart(self) -> None:
        """Kill what runs and start afresh, without waiting for it."""
        with self._lock:
            self._kill()
            if self._pipe is not None:
                self._pipe.close()
            if not self._closed:
                self._start()

    def close(self) -> None:
        """Kill the process; it is not started again."""
        with self._lock:
            self._closed = True
            self._kill()

    def _receive(self, deadline_s: float) -> Any:
        try:
            assert self._pipe is not None
            if self._pipe.poll(deadline_s):
                return self._pipe.recv()
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            raise self._lost(error) from None
        raise WorkerLost("timed-out", f"no reply within {deadline_s:g} s")

    def _lost(self, error: Exception) -> WorkerLost:
        try:
            code = self._process.wait(1.0) if self._process else None
        except subprocess.TimeoutExpired:
            return WorkerLost(
                "crashed", f"the worker process cut its connection ({type(error).__name__})"
            )
        if code is not None and code < 0:
            return WorkerLost("crashed", f"the worker process died of {signal.Signals(-code).name}")
        return WorkerLost("crashed", f"the worker process ended with exit code {code}")

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        # A worker that stops reading or dies halfway through a message must not hold the parent for ever.
        limit = struct.pack("ll", max(1, int(self._deadline_s)), 0)
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, limit)
        with theirs:
            arguments = [
                sys.executable,
                "-c",
                _BOOT,
                self._path,
                str(theirs.fileno()),
                str(os.getpid()),
            ]
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd=self._folder,
            )
        self._pipe, self._loaded = Connection(ours.detach()), False
        self._pipe.send_bytes(self._errand)

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            try:
                os.killpg(
                    process.pid, signal.SIGKILL
                )  # the whole group: a plugin's own children go too
            except ProcessLookupError:
                pass
            process.wait(10)


def serve(descriptor: int, parent: int) -> None:
    """The child's main loop."""
    pipe = Connection(descriptor)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    specs, deadline_s, memory_gb = pipe.recv()
    try:
        rewards = [load_reward(spec) for spec in specs]
    except RewardError as error:
        pipe.send(("failed", str(error)))
        return
    _bound_memory([getattr(reward.function, "memory_gb", memory_gb) for reward in rewards])
    pipe.send(("ready", [_manner(reward) for reward in rewards]))
    while True:
        try:
            index, view, whole = pipe.recv()
        except EOFError:
            return
        _reply(pipe, rewards[index], view, deadline_s if whole else None)


def _manner(reward: Reward) -> Manner:
    if reward.form == "batch":
        return "group"
    return "side by side" if reward.is_async else "each"


def _bound_memory(bounds_gb: list[float | None]) -> None:
    """Bound the data segment by the largest wish, not at all where one reward asks for no bound."""
    wished = [bound for bound in bounds_gb if bound]
    if len(wished) == len(bounds_gb):
        resource.setrlimit(resource.RLIMIT_DATA, (int(max(wished) * 2**30),) * 2)


def _reply(pipe: Connection, reward: Reward, view: GroupView, whole_within_s: float | None) -> None:
    if whole_within_s is None:
        for i in range(len(view.completions)):
            pipe.send(_portable(reward.one(view, i)))
        return
    try:
        pipe.send([_portable(verdict) for verdict in reward.group(view, whole_within_s)])
    except GroupCrash as crash:
        pipe.send(str(crash))


def _portable(verdict: Verdict) -> Verdict:
    """The same verdict in plain Python numbers: array scalars of a plugin might not unpickle in the parent."""
    value = None if verdict.value is None else float(verdict.value)
    parts = {
        str(name): None if part is None else float(part) for name, part in verdict.parts.items()
    }
    return Verdict(
        value=value, status=verdict.status, parts=parts, reason=str(verdict.reason)[:1000]
    )


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.killpg(0, signal.SIGKILL)
