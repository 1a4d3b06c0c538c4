"""Runs Python programs nobody has read against tests, and believes only what the tests see.

Two processes for each answer. The *player* runs the program; the *judge* runs the tests and asks the player for values, as plain
data. A program that prints results, exits early, rewrites `assert` or the built-ins, returns objects equal to everything or
looks for the tests changes only its own process. Both are confined by Landlock, seccomp, resource limits and the loss of all
privileges; `docs/sandbox.md` says what that holds back and what not, `report()` what of it this machine has.

A sandbox of your own (a container, firejail, another machine) is a callable `run(program, stdin, limits) -> str`: it runs the
text `program` as one Python script (3.11 or newer, standard library) with the text `stdin`, and returns what it wrote to stdout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rewards.sandbox.contain import architecture, landlock_version
from rewards.sandbox.local import Local, SandboxError, Session, SessionEnded

__all__ = [
    "Limits",
    "Outcome",
    "SandboxError",
    "SessionEnded",
    "TestResult",
    "check_program",
    "open_session",
    "report",
]
_HARNESS = ("syscalls", "contain", "wire", "exceptions", "player", "judge", "harness")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one answer may use. The tests run under the same limits, in their own process."""

    cpu_s: int = 5
    wall_s: float = 8.0
    """From the start of the program to the last test."""
    memory_mb: int = 512
    """Of address space."""
    scratch_mb: int = 16
    """Files the program may write, in a folder of its own that is removed afterwards."""
    reply_mb: int = 4
    """The largest value a test may get from the program."""


@dataclass(frozen=True, kw_only=True)
class TestResult:
    """One `assert` of the tests."""

    __test__ = False  # no test class of pytest's

    test: str
    passed: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the tests say of one program."""

    results: list[TestResult] = field(default_factory=list)
    trouble: str = ""
    """What went wrong outside of the asserts: the program's error, a limit it ran into."""

    @property
    def passed(self) -> bool:
        """Whether there are tests and all of them hold."""
        return (
            bool(self.results)
            and not self.trouble
            and all(result.passed for result in self.results)
        )

    @property
    def share(self) -> float:
        """Share of the tests that hold."""
        return (
            sum(result.passed for result in self.results) / len(self.results)
            if self.results
            else 0.0
        )

    @property
    def feedback(self) -> str:
        """The first thing that went wrong, in a line."""
        failed = [
            (number, result)
            for number, result in enumerate(self.results, 1)
            if not result.passed
        ]
        if not failed or failed[0][1].reason == self.trouble != "":
            return self.trouble or ("" if self.passed else "no test was reached")
        number, result = failed[0]
        return f"test {number} of {len(self.results)} failed: {result.test}: {result.reason}"


Sandbox = Callable[[str, str, Limits], str]
"""`run(program, stdin, limits) -> stdout`; it may raise, and must end the program some seconds after `limits.wall_s`."""


def check_program(
    program: str,
    tests: Sequence[str],
    *,
    setup: str = "",
    names: Sequence[str] = (),
    limits: Limits | None = None,
    sandbox: Sandbox | None = None,
) -> Outcome:
    """Run `program`, then `setup` and each of `tests` beside it, and say which asserts hold.

    Names the tests use and do not define are the program's, and so are `names` even if `setup` defines them. Raises
    `SandboxError` where nothing can be judged: no way to confine programs here, a sandbox that fails, tests that are no Python.
    """
    limits = limits or Limits()
    job = {"program": program, "setup": setup, "tests": list(tests), "names": list(names)}
    if sandbox is None:
        report = Local.here(harness_script).run(job, asdict(limits))
    else:
        report = _elsewhere(sandbox, job, limits)
    if report["refused"]:
        raise SandboxError(report["refused"])
    return Outcome(
        results=[TestResult(**result) for result in report["results"]],
        trouble=report["trouble"],
    )


def open_session(limits: Limits | None = None) -> Session:
    """A Python interpreter that keeps its names from one text to the next. Raises `SandboxError`.

    `wall_s` bounds each text by itself, `cpu_s` and the others all of them together.
    """
    return Session(Local.here(harness_script), asdict(limits or Limits()))


def harness_script(call: str) -> str:
    """The harness as one Python script that ends in `harness.<call>`."""
    folder = Path(__file__).parent
    sources = {
        f"rewards.sandbox.{name}": (folder / f"{name}.py").read_text(encoding="utf-8")
        for name in _HARNESS
    }
    return (
        "import sys, types\n"
        "for name in ('rewards', 'rewards.sandbox'):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        f"for name, source in {sources!r}.items():\n"
        "    module = sys.modules[name] = types.ModuleType(name)\n"
        "    setattr(sys.modules['rewards.sandbox'], name.rpartition('.')[2], module)\n"
        "    exec(compile(source, name, 'exec'), module.__dict__)\n"
        f"module.{call}\n"
    )


def _elsewhere(sandbox: Sandbox, job: dict[str, object], limits: Limits) -> dict[str, object]:
    said = sandbox(harness_script(f"alone({asdict(limits)!r})"), json.dumps(job), limits)
    try:
        report = json.loads(said)
        return {
            "results": report["results"],
            "trouble": report["trouble"],
            "refused": report["refused"],
        }
    except (ValueError, KeyError, TypeError):
        raise SandboxError(
            f"the sandbox did not return the harness's report but {str(said)[-200:]!r}; "
            "see what the program wrote to its stderr"
        ) from None


def report() -> tuple[bool, str]:
    """Whether programs can be judged on this machine, and in one line what holds them; tried, not guessed."""
    try:
        outcome = check_program(_PROBE, ["assert probe() == []"], limits=Limits(wall_s=20.0))
    except SandboxError as error:
        return False, f"{error}; give the reward `code` a `sandbox` of your own"
    if not outcome.passed:
        return False, f"a probe was not held: {outcome.feedback}"
    version = landlock_version()
    files = f"Landlock {version}" if version >= 3 else "no writes at all"
    reads = "" if version else "; it can READ what you can"
    return (
        True,
        f"seccomp on {('x86_64', 'aarch64')[architecture() or 0]}, files: {files}{reads}",
    )


_PROBE = """
import os, socket, threading

def probe():
    doors = {
        "network": lambda: socket.socket(),
        "processes": lambda: os._exit(0) if os.fork() == 0 else None,
        "threads": lambda: threading.Thread(target=int).start(),
        "signals": lambda: os.kill(os.getppid(), 0),
        "writes": lambda: open(os.path.join(os.path.dirname(os.getcwd()), "rlcore-probe"), "w").close(),
    }
    open_doors = []
    for name, door in doors.items():
        try:
            door()
            open_doors.append(name)
        except (OSError, RuntimeError):
            pass
    return open_doors
"""
