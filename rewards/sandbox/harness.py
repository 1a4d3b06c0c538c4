"""One job in one confined process: fork the program's process first, then read the tests, judge, and report.

The order is the point: what the program could find in memory was never there. `serve` is a warm interpreter that forks a
harness for each job, a few milliseconds instead of a new Python; `alone` is the same for one job on stdin and stdout, as a
script of its own, for sandboxes elsewhere.
"""

from __future__ import annotations

import bisect  # noqa: F401  warm for programs, as are the next few
import heapq  # noqa: F401
import json
import os
import random  # noqa: F401
import re  # noqa: F401
import signal
import socket
import sys
import time
import typing  # noqa: F401
from collections.abc import Callable, Mapping
from typing import Any

from rewards.sandbox.contain import confine, die_with, limit, mount_scratch, seal
from rewards.sandbox.judge import Judge, Stop, deadline_in
from rewards.sandbox.player import play
from rewards.sandbox.wire import ENDED, Gone, Line

GRACE_S = 0.5
"""Seconds after the deadline at which a harness kills itself, whatever it does: a program whose
replies keep the tests busy fails, well before the deadline of the reward call."""
MOST_FILES = 1000
"""Files that a program may have at once."""
STILL_S = 1.0
"""Seconds by which a wait may come back late before the machine has stood still."""


class StoodStill(BaseException):
    """The time is over although this process has hardly computed: the machine is at fault."""


def serve(control: int, parent: int) -> None:
    """Fork a harness for each message `{limits..., "scratch": folder}` with the socket of its job, until the parent goes."""
    die_with(parent)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    requests = socket.socket(fileno=control)
    me = os.getpid()
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, 65536, 1)
        if not message:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with(me)
            job = os.dup2(descriptors[0], 3, inheritable=False) if descriptors[0] != 3 else 3
            os.closerange(4, 1024)
            line = Line(socket.socket(fileno=job), longest=1 << 28)
            limits = json.loads(message)
            try:
                if limits.get("is_session"):
                    converse(limits, line)
                else:
                    line.send(conduct(limits, line.receive, must_seal=True))
            finally:
                os._exit(0)
        os.close(descriptors[0])


def alone(limits: Mapping[str, Any]) -> None:
    """One job from stdin, its report to stdout. What this machine cannot confine is left to the sandbox around it."""
    report = conduct({**limits, "scratch": None}, lambda: json.load(sys.stdin), must_seal=False)
    print(json.dumps(report), flush=True)
    os._exit(0)


def conduct(
    limits: Mapping[str, Any], read_job: Callable[[], Mapping[str, Any]], *, must_seal: bool
) -> dict[str, Any]:
    """Run one job. Returns `{"results", "trouble", "refused"}`; `refused` says why nothing could be judged at all."""
    _end_at(limits["wall_s"] + GRACE_S)
    try:
        child, ours = _begin(limits, must_seal)
    except OSError as error:
        return {
            "results": [],
            "trouble": "",
            "refused": f"programs cannot be confined here: {error}",
        }
    job = read_job()
    line = Line(ours, longest=limits["reply_mb"] << 20)
    judge = Judge(line, deadline_in(limits["wall_s"]), _scratch_watch(limits))
    try:
        trouble = judge.run(job["program"], job["setup"], job["tests"], job["names"])
        if line.late_s > STILL_S and not all(result["passed"] for result in judge.results):
            raise StoodStill
    except StoodStill:
        return {"results": [], "trouble": "", "refused": "the machine stood still meanwhile"}
    except (SyntaxError, ValueError) as error:
        return {"results": [], "trouble": "", "refused": f"the tests cannot be run: {error}"}
    gone = {trouble, *(result["reason"] for result in judge.results)} & {ENDED}
    end = _end_player(child, limits, wait_s=0.5 if gone else 0.0)
    for result in judge.results:
        result["reason"] = end if result["reason"] == ENDED else result["reason"]
    return {
        "results": judge.results,
        "trouble": end if trouble == ENDED else trouble,
        "refused": "",
    }


def converse(limits: Mapping[str, Any], line: Line) -> None:
    """Run the texts that come on `line` in one interpreter until the other side goes, or the interpreter does.

    The reply to each is `{"output", "ended", "refused"}`; `ended` says how the interpreter came to its end.
    """
    try:
        child, ours = _begin(limits, must_seal=True)
    except OSError as error:
        line.send({"refused": f"programs cannot be confined here: {error}"})
        return
    player = Line(ours, longest=limits["reply_mb"] << 20)
    watch = _scratch_watch(limits)
    while True:
        try:
            source = line.receive()
        except Gone:
            return
        try:
            # Each text has a deadline of its own; CPU time is bounded over all of them.
            deadline = deadline_in(limits["wall_s"])
            player.send(["cell", source], deadline)
            output = player.receive(deadline, watch)["value"]
            line.send({"output": str(output), "ended": "", "refused": ""})
        except (Gone, Stop, KeyError, TypeError) as error:
            end = _end_player(child, limits, wait_s=0.5 if str(error) == ENDED else 0.0)
            ended = end if str(error) == ENDED else f"{error} ({limits['wall_s']:g} s)"
            line.send({"output": "", "ended": ended, "refused": ""})
            return


def _begin(limits: Mapping[str, Any], must_seal: bool) -> tuple[int, socket.socket]:
    """Confine this process, and start the program's beside it: its process id, and our end of its line. Raises OSError."""
    # The tests import nothing from a folder that the program can write to.
    sys.path[:] = [folder for folder in sys.path if folder]
    scratch = limits["scratch"]
    sized = scratch is not None and mount_scratch(
        scratch, limits["scratch_mb"] << 20, MOST_FILES
    )
    if scratch is not None:
        os.chdir(scratch)
    limit(
        cpu_s=limits["cpu_s"],
        memory=limits["memory_mb"] << 20,
        file_bytes=limits["scratch_mb"] << 20,
    )
    writes = confine(scratch) and scratch is not None
    ours, theirs = socket.socketpair()
    child = _start_player(
        theirs, {"writes": writes, "sized": sized}, must_seal, limits["reply_mb"] << 20
    )
    theirs.close()
    _seal((os.getpid(), child), must_seal, writes=writes, sized=sized)
    return child, ours


def _end_at(seconds: float) -> None:
    """Die after so many seconds if they were spent computing, else raise `StoodStill` once."""

    def ring(*_: Any) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, GRACE_S)
        if time.process_time() < seconds / 4:
            raise StoodStill
        signal.raise_signal(signal.SIGALRM)

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    # Python handlers wait for the end of a loop in C; this signal has none and kills at once.
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _start_player(
    end: socket.socket, files: Mapping[str, bool], must_seal: bool, longest: int
) -> int:
    judge = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        die_with(judge)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nowhere, standard)
        os.dup2(end.fileno(), 3, inheritable=False)
        end.detach()
        os.closerange(4, 1024)
        _seal((os.getpid(),), must_seal, **files)
        play(Line(socket.socket(fileno=3), longest=longest * 16))
    finally:
        os._exit(0)


def _seal(signals_to: tuple[int, ...], must: bool, **files: bool) -> None:
    try:
        seal(signals_to=signals_to, **files)
    except OSError:
        if must:
            raise


def _scratch_watch(limits: Mapping[str, Any]) -> Callable[[], None]:
    scratch = limits["scratch"]
    most = limits["scratch_mb"] << 20

    def look() -> None:
        if scratch is not None:
            with os.scandir(scratch) as entries:
                sizes = [entry.stat(follow_symlinks=False).st_size for entry in entries]
            if sum(sizes) > most or len(sizes) > MOST_FILES:
                raise Stop(
                    f"over {limits['scratch_mb']} MB or {MOST_FILES} files in the scratch folder"
                )

    return look


def _end_player(child: int, limits: Mapping[str, Any], wait_s: float) -> str:
    """Give the program's process `wait_s` to end by itself, then kill it; how it ended."""
    until = deadline_in(wait_s)
    while time.monotonic() < until and not os.waitid(
        os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ):
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGKILL and used.ru_utime + used.ru_stime >= limits["cpu_s"] - 0.2:
        return f"over {limits['cpu_s']} s of CPU time"
    if code < 0:
        return f"the program died of {signal.Signals(-code).name}"
    return f"the program ended itself with exit code {code}"
