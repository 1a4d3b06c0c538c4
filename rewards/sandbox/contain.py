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
# remove and make files, truncate; no folders
_SCRATCH = _READ_FILE | _READ_DIR | _WRITE_FILE | 1 << 5 | 1 << 8 | 1 << 14
_NEW_MOUNTS, _NEW_USER, _PRIVATE = 0x20000, 0x10000000, 1 << 18 | 1 << 14
_UNNAMED = 0o20000000  # O_TMPFILE without O_DIRECTORY
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
                kind,
                (bound, bound) if hard == resource.RLIM_INFINITY else (min(bound, hard),) * 2,
            )


def mount_scratch(scratch: str, size: int, files: int) -> bool:
    """Put a file system of `size` bytes in memory over the folder, seen by this process alone.

    It needs a mount namespace: as root, or in a user namespace. Returns whether there is one.
    """
    libc = _libc()
    uid, gid = os.getuid(), os.getgid()
    if libc.unshare(_NEW_MOUNTS) < 0:
        if libc.unshare(_NEW_MOUNTS | _NEW_USER) < 0:
            return False
        _map_user(uid, gid)
    settings = f"size={size},nr_inodes={files},mode=700,uid={uid},gid={gid}".encode()
    flags = 2 | 4 | 8  # no setuid, no devices, no programs
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(_PRIVATE), None) < 0:
        return False
    folder = scratch.encode()
    return libc.mount(b"tmpfs", folder, b"tmpfs", ctypes.c_ulong(flags), settings) == 0


def _map_user(uid: int, gid: int) -> None:
    """The same user and group in the new user namespace."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def confine(scratch: str | None) -> bool:
    """Give up all privileges; where there is Landlock, read only Python and the system's libraries and write only in `scratch`.

    Returns whether writes are held to `scratch`; where not, `seal` must refuse them all. Raises OSError.
    """
    libc = _libc()
    _done(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(NO_NEW_PRIVS)")
    header, nothing = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *[0] * 6)
    _done(libc.capset(header, nothing), "capset")
    # nobody may read this process's memory
    _done(libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl(DUMPABLE)")
    version = landlock_version()
    if version:
        _landlock(version, scratch)
    return version >= 3  # before, a file could be emptied by opening it for reading


def _landlock(version: int, scratch: str | None) -> None:
    libc = _libc()
    handled = (1 << (13 + (version >= 2) + (version >= 3))) - 1 | (
        1 << 15 if version >= 5 else 0
    )
    network, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    rules = ctypes.create_string_buffer(struct.pack("QQQ", handled, network, scoped))
    ruleset = _done(
        libc.syscall(_LANDLOCK_CREATE, rules, ctypes.c_size_t(size), 0),
        "landlock_create_ruleset",
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


def seal(*, signals_to: tuple[int, ...], writes: bool, sized: bool) -> None:
    """Refuse, from now on and for good, the system calls of `syscalls`. Raises OSError where seccomp is not to be had.

    Signals may go to the processes `signals_to` only; without `writes` no file can be opened for writing.
    sized: whether what can be written has a size of its own; else nothing written can be hidden.
    """
    rows = list(_filter(signals_to, writes, sized))
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
    handle = struct.pack("HxxxxxxP", len(rows), ctypes.addressof(program))
    _done(_libc().prctl(_PR_SET_SECCOMP, 2, handle, 0, 0), "prctl(SECCOMP)")


Row = tuple[int, int, int, int]
"""One instruction of a BPF program: (code, jump if true, jump if false, value)."""
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW: Row = (_RETURN, 0, 0, 0x7FFF0000)
_KILL: Row = (_RETURN, 0, 0, 0x80000000)
_REFUSE: Row = (_RETURN, 0, 0, 0x50000 | errno.EPERM)
_ABSENT: Row = (_RETURN, 0, 0, 0x50000 | errno.ENOSYS)


def _filter(signals_to: tuple[int, ...], writes: bool, sized: bool) -> Iterator[Row]:
    """The BPF program. It reads the number of a system call, the architecture and the arguments."""
    column = architecture()
    if column is None:
        raise OSError(
            errno.ENOSYS,
            f"the system calls of {platform.machine()} on {sys.platform} are not known",
        )
    yield from _entry(column)
    yield from _refused_calls(column, writes, sized)
    yield from _signal_rules(column, signals_to)
    yield from _socket_rules(column)
    if not writes:
        yield from _open_rules(column, _WRITING)
    elif not sized:
        yield from _open_rules(column, _UNNAMED)
    yield _ALLOW


def _entry(column: int) -> Iterator[Row]:
    """Kill on another architecture; of the newer calls allow the listed ones, the others do not exist."""
    yield from [
        (_LOAD, 0, 0, 4),
        (_EQUAL, 1, 0, list(ARCHITECTURES.values())[column]),
        _KILL,
        (_LOAD, 0, 0, 0),
    ]
    # The jump skips two rows for each allowed call, and the last refusal.
    yield (_AT_LEAST, 0, 2 * len(NEWER_ALLOWED) + 1, NEWER_CALLS)
    for number in NEWER_ALLOWED:
        yield from _on_value(number, _ALLOW)
    yield _ABSENT


def _refused_calls(column: int, writes: bool, sized: bool) -> Iterator[Row]:
    refused = dict(syscalls.ALWAYS)
    if not sized:
        refused |= syscalls.HIDING
    if not writes:
        refused |= syscalls.WRITES
    for numbers in refused.values():
        if numbers[column] is not None:
            yield from _on_value(numbers[column], _REFUSE)


def _signal_rules(column: int, signals_to: tuple[int, ...]) -> Iterator[Row]:
    """Signals go to the listed processes only, limits change for the process itself only."""
    for name in ("kill", "tkill", "tgkill"):
        rows = [_argument(0)]
        for pid in signals_to:
            rows += _on_value(pid, _ALLOW)
        yield from _on_call(name, column, [*rows, _REFUSE])
    yield from _on_call("prlimit64", column, [_argument(0), *_on_value(0, _ALLOW), _REFUSE])


def _socket_rules(column: int) -> Iterator[Row]:
    # A datagram socket could be used to write to any socket file, a stream only to its other end (the low nibble is 1).
    stream_only = [_argument(1), (_AND, 0, 0, 15), *_on_value(1, _ALLOW), _REFUSE]
    yield from _on_call("socketpair", column, stream_only)
    # Signals by way of a file's owner; typing for others.
    owner_commands = {"fcntl": (8, 10, 15), "ioctl": (0x8901, 0x8902, 0x5412)}
    for name, commands in owner_commands.items():
        rows = [_argument(1)]
        for command in commands:
            rows += _on_value(command, _REFUSE)
        yield from _on_call(name, column, [*rows, _ALLOW])


def _open_rules(column: int, refused: int) -> Iterator[Row]:
    """Files are not opened with any of the flags `refused`."""
    for name, position in (("open", 1), ("openat", 2)):
        rows = [_argument(position), (_ANY_BIT, 0, 1, refused), _REFUSE, _ALLOW]
        yield from _on_call(name, column, rows)


def _argument(position: int) -> Row:
    """Load the lower half of an argument."""
    return (_LOAD, 0, 0, 16 + 8 * position)


def _on_value(value: int, verdict: Row) -> list[Row]:
    """`verdict` if the loaded number is `value`, else go on."""
    return [(_EQUAL, 0, 1, value), verdict]


def _on_call(name: str, column: int, body: list[Row]) -> list[Row]:
    """`body` for this system call; other calls skip it. Nothing where the architecture lacks the call."""
    number = syscalls.BY_ARGUMENT[name][column]
    return [] if number is None else [(_EQUAL, 0, len(body), number), *body]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _done(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
