"""`rlcore bench device`: sections one after another, each in a process that may fault, run out of memory or hang.

This process imports no torch: a child alone holds the device, and is killed with all that it started.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlcore.bench.device.case import FAILED, Section
from rlcore.bench.device.results import Results
from rlcore.bench.device.sections import SECTIONS
from rlcore.child_process import ending_with_this_process
from rlcore.errors import RecipeError
from rlcore.plugin import did_you_mean

POLL_S = 0.1
START_S = 120.0
"""Longest time from the start of a child to its first case: imports."""
LAST_WORDS = 4000
"""Characters of a dead child's output that are kept."""
LEAST_S = 5.0
"""A section is not begun with less time than this."""

Say = Callable[[str], None]


def bench_device(
    *,
    minutes: float,
    out: Path,
    tiny: bool = False,
    only: Sequence[str] = (),
    again: bool = False,
    say: Say = print,
    sections: Sequence[Section] = SECTIONS,
) -> bool:
    """Run what is not green yet in `out`, for at most `minutes`. Whether no case failed.

    only: names of sections; all by default. again: also what is green. tiny: toy sizes, for a CPU.
    Raises `RecipeError`.
    """
    chosen = _chosen(only, sections)
    if not tiny:
        _require_gpu()
    results = Results(out, tiny=tiny)
    until = time.monotonic() + 60 * minutes
    for section in chosen:
        if results.is_green(section.name) and not again:
            say(f"{section.name}: green already")
            continue
        results.begin(section.name, section.needs, again=again)
        left = until - time.monotonic()
        if left < LEAST_S:
            results.close(section.name, all_cases=None, reason="no time was left")
            say(f"{section.name}: not begun, no time was left")
            continue
        _Supervisor(section, results, tiny=tiny, say=say).run(min(left, section.seconds))
    results.write()
    return all(results.sections[section.name]["status"] != FAILED for section in chosen)


def _chosen(only: Sequence[str], sections: Sequence[Section]) -> list[Section]:
    names = [section.name for section in sections]
    for name in only:
        if name not in names:
            raise RecipeError(
                f"there is no section {name!r}{did_you_mean(name, names)} (sections: {', '.join(names)})"
            )
    return [section for section in sections if not only or section.name in only]


def _require_gpu() -> None:
    """Raise `RecipeError` where no GPU can be used; asked in a process of its own."""
    code = "import torch, sys; sys.exit(not torch.cuda.is_available())"
    if subprocess.run([sys.executable, "-c", code], capture_output=True).returncode:
        raise RecipeError(
            "torch sees no CUDA GPU here, so there is nothing to measure: run with --tiny, which runs the same "
            "code at toy size on a CPU"
        )


class _Supervisor:
    """Runs one section: starts children until every case has an outcome or the time is over."""

    def __init__(self, section: Section, results: Results, *, tiny: bool, say: Say) -> None:
        self._section = section
        self._results = results
        self._tiny = tiny
        self._say = say
        self._cases: list[str] | None = None
        self._machine = 0
        self._running: str | None = None
        self._case_ends = 0.0

    def run(self, seconds: float) -> None:
        """Take at most this long."""
        name = self._section.name
        until = time.monotonic() + seconds
        # only in this call: what failed in an earlier one is tried again
        done = self._results.finished(name)
        reason = ""
        while True:
            before = len(done)
            reason = self._child(until, done)
            if self._cases is not None and set(self._cases) <= set(done):
                break
            if time.monotonic() > until - LEAST_S:
                reason = reason or "its time was over"
                break
            if len(done) == before:
                # died outside of any case, which a new process would do again
                self._put(
                    done, "outside of its cases", reason or "it ended before its cases did"
                )
                break
        self._results.close(name, all_cases=self._cases, reason=reason)
        status = self._results.sections[name]["status"]
        self._say(f"{name}: {status}{f' ({reason})' if reason else ''}")

    def _child(self, until: float, done: list[str]) -> str:
        """One process; `done` grows by the cases that ended. Why it ended before it was through, or ""."""
        self._running = None
        self._case_ends = time.monotonic() + START_S
        with tempfile.TemporaryDirectory(prefix="rlcore_device_") as folder:
            events, output = Path(folder) / "events", Path(folder) / "output"
            events.touch()
            with _process(self._command(events, done), output) as process:
                lines = _lines(events)
                while True:
                    ended = process.poll() is not None
                    for event in lines():
                        self._take(event, done)
                    if ended:
                        break
                    if time.monotonic() > min(until, self._case_ends):
                        _kill(process)
                        return self._overdue(until, done, output)
                    time.sleep(POLL_S)
                return self._ended(process.returncode, done, output)

    def _command(self, events: Path, done: Sequence[str]) -> list[str]:
        command = [sys.executable, "-m", "rlcore.bench.device.child"]
        command += [self._section.name, self._section.module, str(events)]
        command += ["--done", json.dumps(list(done))]
        return command + ["--tiny"] * self._tiny

    def _take(self, event: dict[str, Any], done: list[str]) -> None:
        if "machine" in event:
            self._machine = self._results.machine(event["machine"])
        elif "cases" in event:
            self._cases = event["cases"]
        elif "begin" in event:
            self._running = event["begin"]
            self._case_ends = time.monotonic() + event["seconds"]
        else:
            name = event.pop("end")
            self._running = None
            self._case_ends = time.monotonic() + START_S
            self._results.put(self._section.name, name, event, self._machine)
            done.append(name)
            detail = event.get("reason") or event.get("error", "").strip().split("\n")[-1]
            self._say(f"  {self._section.name}/{name}: {event['status']} {detail}".rstrip())

    def _overdue(self, until: float, done: list[str], output: Path) -> str:
        running = self._running
        if running is None:
            return "its process did not begin a case in time and was killed"
        if time.monotonic() > until:
            # the section's time, not the case's: it is run by the next call
            return f"its time was over during {running}"
        self._put(done, running, f"killed: it took longer than it may\n{_tail(output)}")
        return ""

    def _ended(self, status: int, done: list[str], output: Path) -> str:
        if status == 0:
            return ""
        how = f"exit status {status}"
        if status < 0:
            how = f"killed by {signal.Signals(-status).name}"
        if self._running is None:
            return "" if done and self._cases else f"{how}\n{_tail(output)}"
        self._put(done, self._running, f"its process ended: {how}\n{_tail(output)}")
        return ""

    def _put(self, done: list[str], case: str, error: str) -> None:
        outcome = {"status": FAILED, "error": error}
        self._results.put(self._section.name, case, outcome, self._machine)
        self._say(f"  {self._section.name}/{case}: failed {error.splitlines()[0]}")
        done.append(case)


@contextmanager
def _process(command: list[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A child in a session of its own, which is gone afterwards with all that it started."""
    with open(output, "wb") as file:
        process = subprocess.Popen(
            ending_with_this_process(command),
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the child's whole group, at once: it may hang in a driver, and has written all that it knows."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _lines(path: Path) -> Callable[[], list[dict[str, Any]]]:
    """A function that gives the events written since it was last called; half a line waits for its end."""
    position = 0

    def read() -> list[dict[str, Any]]:
        nonlocal position
        with open(path) as file:
            file.seek(position)
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        position += len(whole.encode())
        return [json.loads(line) for line in whole.splitlines()]

    return read


def _tail(output: Path) -> str:
    return output.read_text(errors="replace")[-LAST_WORDS:].strip()
