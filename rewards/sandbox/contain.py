"""What keeps a program in: limits, no privileges, Landlock for files, seccomp for the rest. Linux only, no root needed.

`confine` is called once in a fresh process, `seal` last, in each process by itself: after it nothing can be undone, no process
or thread can be started and no other program can be run. Only the standard library is used: this file travels with the
harness into other people's sandboxes (`Sandbox` in `__init__.py`).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Iterator

from rewards.sandbox import syscalls

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NEWER_CALLS = 424
"""First system call number that is the same on every architecture."""
NEWER_ALLOWED = (436, 439)  # close_range, faccessat2

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_DIR, _WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
_SCRATCH = (
    _READ_FILE | _READ_DIR | _WRITE_FILE | 1 << 5 | 1 << 8 | 1 << 14
)  # remove and make files, truncate; no folders
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def architecture() -> int | None:
    """Column of this machine in the tables of `syscalls`; None where its numbers are not known."""
    known = (
        sys.platform == "linux"
        and struct.calcsize("P") == 8
        and platform.machine() in ARCHITECTURES
    )
    return list(ARCHITECTURES).index(platform.machine()) if known else None


def landlock_version() -> int:
    """Version of Landlock the kernel offers; 0 where there is none."""
    if architecture() is None:
        return 0
    return max(0, _libc().syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1))


def die_with(parent: int) -> None:
    """Be killed when the parent goes, also if it is gone already."""
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def limit(*, cpu_s: int, memory: int, file_bytes: int) -> None:
    """Bounds of this process and its children, each by itself; `memory` is of the address space, in bytes."""
    bounds = {
        "CPU": cpu_s,
        "AS": memory,
        "FSIZE": file_bytes,
        "CORE": 0,
        "NOFILE": 64,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "NICE": 0,
    }
    for name, bound in bounds.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is not None:
            hard = resource.getrlimit(kind)[1]
            resource.setrlimit(
                kind, (bound, bound) if hard == resource.RLIM_INFINITY else (min(bound, hard),) * 2
            )


def confine(scratch: str | None) -> bool:
    """Give up all privileges; where there is Landlock, read only Python and the system's libraries and write only in `scratch`.

    Returns whether writes are held to `scratch`; where not, `seal` must refuse them all. Raises OSError.
    """
    libc = _libc()
    _done(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")
    header, nothing = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
    _done(libc.capset(header, nothing), "capset")
    _done(
        libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(DUMPABLE)"
    )  # nobody may read this process's memory
    version = landlock_version()
    if version:
        _landlock(version, scratch)
    return version >= 3  # before, a file could be emptied by opening it for reading


def _landlock(version: int, scratch: str | None) -> None:
    libc = _libc()
    handled = (1 << (13 + (version >= 2) + (version >= 3))) - 1 | (1 << 15 if version >= 5 else 0)
    network, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = ctypes.create_string_buffer(struct.pack("QQQ", handled, network, scoped))
    ruleset = _done(
        libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(size), 0), "landlock_create_ruleset"
    )
    readable = {
        sys.base_prefix,
        sys.base_exec_prefix,
        os.path.dirname(os.__file__),
        "/usr",
        "/lib",
        "/lib64",
    }
    allowed = dict.fromkeys(readable, _READ_FILE | _READ_DIR)
    allowed |= {
        "/dev/null": _READ_FILE | _WRITE_FILE,
        "/dev/urandom": _READ_FILE,
        "/dev/zero": _READ_FILE,
    }
    if scratch is not None:
        allowed[scratch] = _SCRATCH
    for path, access in allowed.items():
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        rule = ctypes.create_string_buffer(struct.pack("=Qi", access & handled, place))
        _done(libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock_add_rule({path})")
        os.close(place)
    _done(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def seal(*, signals_to: tuple[int, ...], writes: bool) -> None:
    """Refuse, from now on and for good, the system calls of `syscalls`. Raises OSError where seccomp is not to be had.

    Signals may go to the processes `signals_to` only; without `writes` no file can be opened for writing.
    """
    rows = list(_filter(signals_to, writes))
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
    handle = struct.pack("HxxxxxxP", len(rows), ctypes.addressof(program))
    _done(_libc().prctl(_PR_SET_SECCOMP, 2, handle, 0, 0), "prctl(SECCOMP)")


def _filter(signals_to: tuple[int, ...], writes: bool) -> Iterator[tuple[int, int, int, int]]:
    """Rows of a BPF program: (code, jump if true, jump if false, value). It reads number, architecture and arguments."""
    column = architecture()
    if column is None:
        raise OSError(
            errno.ENOSYS,
            f"the system calls of {platform.machine()} on {sys.platform} are not known",
        )
    load, equal, at_least, bits, give = 0x20, 0x15, 0x35, 0x45, 0x06
    allow, kill, refuse, absent = (
        0x7FFF0000,
        0x80000000,
        0x50000 | errno.EPERM,
        0x50000 | errno.ENOSYS,
    )

    def argument(position: int) -> tuple[int, int, int, int]:
        return load, 0, 0, 16 + 8 * position  # its lower half

    def when(name: str, *body: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
        number = syscalls.BY_ARGUMENT[name][column]
        return [] if number is None else [(equal, 0, len(body), number), *body]

    yield from [
        (load, 0, 0, 4),
        (equal, 1, 0, list(ARCHITECTURES.values())[column]),
        (give, 0, 0, kill),
        (load, 0, 0, 0),
    ]
    newer = [(equal, 0, 1, number) for number in NEWER_ALLOWED]
    yield (at_least, 0, 2 * len(newer) + 1, NEWER_CALLS)
    for row in newer:
        yield from [row, (give, 0, 0, allow)]
    yield (give, 0, 0, absent)
    for number in {**syscalls.ALWAYS, **({} if writes else syscalls.WRITES)}.values():
        if number[column] is not None:
            yield from [(equal, 0, 1, number[column]), (give, 0, 0, refuse)]
    for name in ("kill", "tkill", "tgkill"):
        own = [row for pid in signals_to for row in [(equal, 0, 1, pid), (give, 0, 0, allow)]]
        yield from when(name, argument(0), *own, (give, 0, 0, refuse))
    only_own = [argument(0), (equal, 0, 1, 0), (give, 0, 0, allow), (give, 0, 0, refuse)]
    yield from when("prlimit64", *only_own)
    # A datagram socket could be used to write to any socket file, a stream only to its other end (the low nibble is 1).
    yield from when(
        "socketpair",
        argument(1),
        (0x54, 0, 0, 15),
        (equal, 0, 1, 1),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    )
    owners = {
        "fcntl": (8, 10, 15),
        "ioctl": (0x8901, 0x8902, 0x5412),
    }  # signals by way of a file's owner; typing for others
    for name, commands in owners.items():
        tests = [
            row for command in commands for row in [(equal, 0, 1, command), (give, 0, 0, refuse)]
        ]
        yield from when(name, argument(1), *tests, (give, 0, 0, allow))
    if not writes:
        for name, position in (("open", 1), ("openat", 2)):
            yield from when(
                name,
                argument(position),
                (bits, 0, 1, _WRITING),
                (give, 0, 0, refuse),
                (give, 0, 0, allow),
            )
    yield (give, 0, 0, allow)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _done(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
