"""Hostile programs: none gets out, none gets credit, and the next one still scores."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rewards.sandbox import Limits, SandboxError, check_program, harness_script, report
from rewards.sandbox.contain import architecture, landlock_version
from rewards.sandbox.local import PATIENCE_S, Local

HOLDS, WHAT = report()
pytestmark = pytest.mark.skipif(not HOLDS, reason=f"this machine cannot confine programs: {WHAT}")
scratch_works = pytest.mark.skipif(
    landlock_version() < 3, reason="the scratch folder needs Landlock 3 (Linux 6.2)"
)
reads_are_held = pytest.mark.skipif(
    landlock_version() < 1, reason="reads are held by Landlock (Linux 5.13)"
)

QUICK = Limits(cpu_s=1, wall_s=30.0, memory_mb=256, scratch_mb=1, reply_mb=1)


def attempt(body: str, test: str = "assert f() == 'held'", limits: Limits = QUICK, **more):
    """A program whose `f` does `body` and gives "held" when that raises OSError or RuntimeError."""
    lines = "".join(f"        {line}\n" for line in body.strip().splitlines())
    program = f"import os, sys, time\ndef f():\n    try:\n{lines}    except (OSError, RuntimeError):\n        return 'held'\n"
    outcome = check_program(program, [test], limits=limits, **more)
    assert check_program("def f(x): return x + 1", ["assert f(1) == 2"]).passed, (
        "the next program must still be judged"
    )
    return outcome


def test_the_report_names_what_holds():
    assert "seccomp" in WHAT and architecture() is not None


# What is contained


@pytest.mark.parametrize(
    "body",
    [
        "for _ in range(6): os.fork()",
        "import subprocess; return subprocess.run(['/bin/true'])",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "import threading; threading.Thread(target=int).start()",
        "os.setsid()",
    ],
)
def test_no_process_thread_or_program_can_be_started(body):
    assert attempt(body).passed


@pytest.mark.parametrize(
    "body",
    [
        "os.kill(os.getppid(), 9)",
        "os.kill(-1, 0)",
        "os.killpg(0, 0)",
        "os.kill(OUTSIDE, 9)",
        "import signal; signal.pidfd_send_signal(os.pidfd_open(OUTSIDE), 9)",
        "import resource; resource.prlimit(OUTSIDE, resource.RLIMIT_CPU, (0, 0))",
        "import fcntl; r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, OUTSIDE)",
        "os.setpriority(os.PRIO_PROCESS, OUTSIDE, 19)",
        "os.sched_setaffinity(OUTSIDE, {0})",
    ],
)
def test_no_other_process_can_be_reached(body):
    outside = subprocess.Popen(["sleep", "30"])
    try:
        assert attempt(body.replace("OUTSIDE", str(outside.pid))).passed
        assert outside.poll() is None
    finally:
        outside.kill()
        outside.wait()


@pytest.mark.parametrize(
    "body",
    [
        "import socket; socket.create_connection(('127.0.0.1', PORT), 1)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
        "import socket; socket.socket(socket.AF_UNIX).connect('\\0abstract')",
        "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
        "import socket; socket.getaddrinfo('example.org', 80)",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:PORT/')",
    ],
)
def test_there_is_no_network(body):
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert attempt(body.replace("PORT", str(server.getsockname()[1]))).passed
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


@pytest.mark.parametrize(
    "body",
    [
        "open('FOLDER/new', 'w')",
        "open('FOLDER/there', 'a')",
        "os.open('FOLDER/there', os.O_RDONLY | os.O_TRUNC)",
        "os.truncate('FOLDER/there', 0)",
        "os.remove('FOLDER/there')",
        "os.rename('FOLDER/there', 'FOLDER/here')",
        "os.symlink('/', 'FOLDER/link')",
        "os.mkdir('FOLDER/sub')",
        "os.chmod('FOLDER/there', 0)",
        "os.utime('FOLDER/there', (0, 0))",
        "os.link('FOLDER/there', 'stolen')",
        "open('/dev/shm/rlcore-probe', 'w')",
        "os.mkfifo('pipe')",
        "os.memfd_create('hidden')",
        "os.chroot('.')",
    ],
)
def test_nothing_is_written_outside_the_scratch_folder(body, tmp_path):
    (tmp_path / "there").write_text("kept")
    before = (tmp_path / "there").stat()
    assert attempt(body.replace("FOLDER", str(tmp_path))).passed
    assert os.listdir(tmp_path) == ["there"] and (tmp_path / "there").read_text() == "kept"
    after = (tmp_path / "there").stat()
    assert (before.st_mode, before.st_mtime) == (after.st_mode, after.st_mtime)


@reads_are_held
@pytest.mark.parametrize(
    "path", [__file__, "/etc/passwd", "/proc/self/environ", "/proc/self/maps", "/proc/1/cmdline"]
)
def test_files_of_the_user_cannot_be_read(path):
    assert attempt(f"return open({path!r}).read()").passed


@scratch_works
def test_the_scratch_folder_works_and_is_removed():
    body = (
        "open('notes', 'w').write('x' * 9)\nreturn os.getcwd(), open('notes').read(), os.listdir()"
    )
    outcome = attempt(
        body,
        "where, text, names = f()\nassert (text, names) == ('x' * 9, ['notes'])\nassert where == 0",
    )
    assert [result.passed for result in outcome.results] == [True, False]
    where = outcome.results[1].reason.split("'")[1]
    assert "rlcore-" in where and not Path(where).exists()


def test_the_environment_is_not_handed_on(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "abc")
    assert check_program(
        "import os\ndef f(): return sorted(os.environ)", ["assert 'SECRET_TOKEN' not in f()"]
    ).passed


# Older and weaker kernels


def job(program: str, tests: list[str]) -> dict[str, object]:
    return {"program": program, "setup": "", "tests": tests, "names": []}


def with_harness(change: str, program: str, tests: list[str]) -> list[bool]:
    """Results under a harness changed in a line."""
    harness = Local(
        lambda call: harness_script(call).replace(f"module.{call}", f"{change}\nmodule.{call}")
    )
    try:
        report = harness.run(job(program, tests), asdict(QUICK))
        assert not report["refused"], report
        return [result["passed"] for result in report["results"]]
    finally:
        harness.close()


LANDLOCK = "sys.modules['rewards.sandbox.contain'].landlock_version = lambda: VERSION"
NO_SECCOMP = "sys.modules['rewards.sandbox.harness'].seal = lambda **_: None"
DOORS = """
import os, socket, threading
def tries(door):
    try:
        door()
    except (OSError, RuntimeError):
        return "held"
    return "open"
def fork(): return tries(lambda: os.fork() or os._exit(0))
def connect(): return tries(socket.socket)
def write(path): return tries(lambda: open(path, "w"))
def read(path): return tries(lambda: open(path).read(1))
def peek(): return tries(lambda: open(f"/proc/{os.getppid()}/mem", "rb").read(0))
def remove(path): return tries(lambda: os.remove(path))
"""


@pytest.mark.parametrize(
    "version", [version for version in (0, 1, 2) if version <= landlock_version()]
)
def test_without_a_newer_landlock_nothing_is_written_at_all(version, tmp_path):
    harness = LANDLOCK.replace("VERSION", str(version))
    (tmp_path / "there").write_text("kept")
    names = [
        "fork()",
        "connect()",
        "write('mine')",
        f"write({str(tmp_path / 'new')!r})",
        f"remove({str(tmp_path / 'there')!r})",
    ]
    held = [f"assert {name} == 'held'" for name in [*names, "peek()"]]
    assert all(with_harness(harness, DOORS, held))
    assert os.listdir(tmp_path) == ["there"]
    reads = "held" if version else "open"  # which the docs accept
    assert with_harness(harness, DOORS, [f"assert read({__file__!r}) == {reads!r}"]) == [True]


def test_these_tests_see_a_missing_seal():
    assert with_harness(
        NO_SECCOMP, DOORS, ["assert fork() == 'held'", "assert connect() == 'held'"]
    ) == [False, False]
    assert with_harness("", DOORS, ["assert fork() == 'held'", "assert connect() == 'held'"]) == [
        True,
        True,
    ]


def test_an_unknown_machine_refuses(monkeypatch):
    monkeypatch.setattr("rewards.sandbox.contain.platform.machine", lambda: "vax")
    works, why = report()
    assert not works and "x86_64 and aarch64 only" in why and "sandbox" in why


# What is bounded


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("while True: pass", "over 1 s of CPU time"),
        ("time.sleep(100)", "no reply in time"),
        ("x = bytearray(10 << 30); return 'held'", "MemoryError"),
        ("x = []\nwhile True: x.append(bytearray(64 << 20))", "MemoryError"),
        ("return 'x' * (3 << 20)", "a reply of over 1,048,576 bytes"),
        ("import itertools; return itertools.count()", "more than 100,000 items"),
        ("x = []; x.append(x); return x", "RecursionError"),
        ("while True: print('x' * 1000)", "over 1 s of CPU time"),
        ("import ctypes; ctypes.string_at(0)", "died of SIGSEGV"),
    ],
)
def test_time_memory_and_output_are_bounded(body, says):
    outcome = attempt(
        body, "assert f() == 'never'", replace(QUICK, wall_s=1.0) if "sleep" in body else QUICK
    )
    assert not outcome.passed and says in outcome.feedback, outcome


@scratch_works
def test_the_scratch_folder_is_bounded():
    assert attempt("open('big', 'w').write('x' * (2 << 20))").passed
    many = "for i in range(9): open(str(i), 'w').write('x' * (1 << 19))\ntime.sleep(100)"
    feedback = attempt(many).feedback
    assert "over 1 MB or 1000 files in the scratch folder" in feedback or not feedback


HIDDEN_BY_FILES = """
kept = []
for i in range(50):
    file = open(str(i), "wb")
    os.unlink(str(i))
    file.write(b"x" * (1 << 19))
    file.flush()
    kept.append(file)
"""
HIDDEN_BY_MAPS = """
import mmap
kept = []
for i in range(200):
    with open(str(i), "w+b") as file:
        file.write(b"x" * (1 << 18))
        file.flush()
        kept.append(mmap.mmap(file.fileno(), 4096))
    os.unlink(str(i))
"""
LARGE_AT_ONCE = "for i in range(50): os.posix_fallocate(os.open(str(i), os.O_CREAT | os.O_RDWR), 0, 1 << 19)"
UNNAMED = "fd = os.open('.', os.O_TMPFILE | os.O_RDWR)\nfor i in range(50): os.write(fd, b'x' * (1 << 19))"
NO_NAMESPACE = "sys.modules['rewards.sandbox.harness'].mount_scratch = lambda *_: False"


@scratch_works
@pytest.mark.parametrize("body", [HIDDEN_BY_FILES, HIDDEN_BY_MAPS, LARGE_AT_ONCE, UNNAMED])
def test_space_cannot_be_hidden(body):
    """Files that nobody sees, because they were removed or never had a name, count as well."""
    assert attempt(body).passed
    lines = "".join(f"        {line}\n" for line in body.strip().splitlines())
    program = f"import os\ndef f():\n    try:\n{lines}    except OSError:\n        return 'held'\n"
    assert with_harness(NO_NAMESPACE, program, ["assert f() == 'held'"]) == [True]


@scratch_works
def test_without_a_namespace_files_are_counted():
    works = "def f():\n    open('a', 'w').write('x')\n    return open('a').read()"
    assert with_harness(NO_NAMESPACE, works, ["assert f() == 'x'"]) == [True]
    many = "import time\ndef f():\n    for i in range(9): open(str(i), 'w').write('x' * (1 << 19))\n    time.sleep(100)"
    assert with_harness(NO_NAMESPACE, many, ["assert f() is None"]) == [False]


@pytest.mark.parametrize("call", ["inotify_init()", "inotify_init1(0)", "fanotify_init(0, 0)"])
def test_what_others_do_with_files_cannot_be_watched(call):
    body = f"import ctypes; libc = ctypes.CDLL(None, use_errno=True)\nif libc.{call} < 0: raise OSError"
    assert attempt(body).passed


# What the verdict does not believe

TWO = ["assert f(2) == 4", "assert f(3) == 9"]

LOOK_FOR_TESTS = """
import ctypes, gc, re, sys
def f(x):
    seen, frame = [], sys._getframe()
    while frame:
        seen.append(repr(frame.f_locals))
        frame = frame.f_back
    seen += [thing for thing in gc.get_objects() if isinstance(thing, (dict, list, tuple)) for thing in [repr(thing)]]
    for path in ("/proc/self/mem", "/proc/self/cmdline", "/proc/self/environ"):
        try:
            seen.append(open(path, errors="replace").read())
        except OSError:
            pass
    found = re.findall(r"f\\(%d\\) == (\\d+)" % x, "".join(seen))
    return int(found[0]) if found else None
"""
ANSWER_BEFORE_BEING_ASKED = """
import json, os, socket, struct
for value in VALUES:
    body = json.dumps({"value": value}).encode()
    socket.socket(fileno=os.dup(3)).send(struct.pack(">Q", len(body)) + body)
"""


FORGED_REPLY = """
import json, os, socket, struct
def f():
    body = json.dumps({"value": VALUE}).encode()
    socket.socket(fileno=os.dup(3)).send(struct.pack(">Q", len(body)) + body)
    while True: pass
"""


@pytest.mark.parametrize(
    "value",
    [
        ["fraction", "1e99999999"],
        ["fraction", "1", "0"],
        ["fraction", "f" * 100_000, "3"],
        ["decimal", "1e99999999"],
        ["decimal", "-1e-99999999"],
        ["int", "f" * 500_000],
        ["range", 0, ["int", "f" * 500_000], 1],
        ["list", *[["range", 0, 10**15, 1]] * 100],
        ["timedelta", 1e308, 0, 0],
        ["complex", "x"],
        ["handle", 10**18],
        ["type", "no"],
        ["dict", ["list"], 1],
        ["iterator", *[0] * 100_000],
    ],
)
def test_a_forged_reply_is_a_failed_test_and_quick(value):
    began = time.monotonic()
    tests = ["assert int(f()) == 3"]
    outcome = check_program(FORGED_REPLY.replace("VALUE", repr(value)), tests, limits=QUICK)
    assert outcome.results and not outcome.passed
    assert time.monotonic() - began < 5


def test_tests_that_a_reply_keeps_busy_end_in_time_as_failed():
    """10**8 items are more than the tests can look at: a 0 before the reward's deadline, not no score."""
    limits = replace(QUICK, cpu_s=60, wall_s=1.0)
    began = time.monotonic()
    outcome = check_program("def f(): return range(10**9)", ["assert sum(f()) == 3"], limits=limits)
    # The bound is one of computing time: on a busy machine it takes longer by the clock.
    assert not outcome.passed and time.monotonic() - began < limits.wall_s + PATIENCE_S


@pytest.mark.parametrize(
    "program",
    [
        "print('all tests passed')",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "def f(x):\n    import os\n    os._exit(0)",
        "def f(x): raise SystemExit(0)",
        "import builtins\nbuiltins.AssertionError = builtins.RuntimeError = SystemExit\ndef f(x): return 0",
        "class Same:\n    def __eq__(self, other): return True\ndef f(x): return Same()",
        "class Int(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef f(x): return Int(0)",
        "class List(list):\n    def __eq__(self, other): return True\ndef f(x): return List()",
        LOOK_FOR_TESTS,
        ANSWER_BEFORE_BEING_ASKED.replace("VALUES", "[None] * 9"),
        ANSWER_BEFORE_BEING_ASKED.replace("VALUES", "[None, ['handle', 0], True, True]"),
        ANSWER_BEFORE_BEING_ASKED.replace("VALUES", "[None, ['fraction', '1/0']]"),
        ANSWER_BEFORE_BEING_ASKED.replace("VALUES", "[None, ['no such kind']]"),
        ANSWER_BEFORE_BEING_ASKED.replace("VALUES", "[None, ['set', ['list']]]"),
        "import os\nos.write(3, b'\\xff' * 100)\ndef f(x): return 4",
        "import os\nos.write(3, b'\\0' * 7 + b'\\x02[[')\ndef f(x): return 4",
        "import os\nos.close(3)",
        "def f(x): raise AssertionError",
        "f = type('F', (), {'__call__': lambda self, x: self, '__eq__': lambda a, b: True})()",
    ],
)
def test_cheats_earn_nothing(program):
    outcome = check_program(program, TWO, limits=QUICK)
    assert not any(result.passed for result in outcome.results), outcome
    assert not outcome.passed and outcome.share == 0 and outcome.feedback


def test_the_right_program_passes_the_tests_that_stop_the_cheats():
    assert check_program("def f(x): return x * x", TWO).passed


def test_where_program_and_tests_share_a_process_the_tests_are_found():
    """The mistake that this design avoids; in a small process, since the program looks at every object."""
    program = f"""
tests = {TWO!r}
space = {{}}
exec({LOOK_FOR_TESTS!r}, space)
assert space["f"](2) == 4 and len(tests) == 2
"""
    subprocess.run([sys.executable, "-"], input=program, text=True, check=True, timeout=60)


def test_a_program_cannot_bring_its_own_helpers():
    program = "def encode(x): return x\ndef decode(x): return x\n"
    honest = "def encode(x): return x + 1\ndef decode(x): return x - 1\n"
    setup, tests = "def encode(x):\n    return x + 1", ["assert decode(encode(5)) == 5"]
    assert not check_program(program, tests, setup=setup, names=["decode"]).passed
    assert check_program(honest, tests, setup=setup, names=["decode"]).passed
    assert not check_program(
        "def len(x): return 3\ndef f(x): return x", ["assert len(f([])) == 3"]
    ).passed
    assert check_program("def sum(a, b): return a - b", ["assert sum(3, 1) == 2"]).passed, (
        "unless it is what is asked for"
    )


# What crosses between the two sides

VALUES = """
import collections, datetime, decimal, fractions
Point = collections.namedtuple("Point", "x y")
class Node:
    def __init__(self, value): self.value, self.left = value, None
def depth(node): return 0 if node is None else 1 + depth(node.left)
def give(name): return {
    "nested": [(1, 2.5), {"a": {3, 4}}, None, True, b"\\xff"], "big": 10 ** 5000, "nan": float("nan"), "complex": 1 + 2j,
    "counter": collections.Counter("aab"), "ordered": collections.OrderedDict(b=1, a=2), "deque": collections.deque([1, 2]),
    "point": Point(1, 2), "map": map(str, [1, 2]), "keys": {1: 2}.keys(), "range": range(3), "half": fractions.Fraction(1, 2),
    "day": datetime.date(2024, 2, 29), "money": decimal.Decimal("1.10"), "odd": "\\ud800", "type": int,
}[name]
"""


@pytest.mark.parametrize(
    "test",
    [
        "give('nested') == [(1, 2.5), {'a': {3, 4}}, None, True, b'\\xff']",
        "give('big') == 10 ** 5000",
        "give('nan') != give('nan')",
        "give('complex') == 1 + 2j",
        "give('counter').most_common(1) == [('a', 2)]",
        "list(give('ordered')) == ['b', 'a']",
        "give('deque').popleft() == 1",
        "give('point') == (1, 2)",
        "list(give('map')) == ['1', '2']",
        "give('keys') == {1}",
        "give('range') == range(3)",
        "give('half') * 2 == 1",
        "give('day').isoformat() == '2024-02-29'",
        "str(give('money')) == '1.10'",
        "give('odd') == '\\ud800'",
        "give('type') is int",
        "depth(Node(1)) == 1",
        "Node(7).value == 7",
        "math.isclose(give('complex').real, 1)",
    ],
)
def test_values_arrive_as_they_were(test):
    wrong = f"not ({test})"
    outcome = check_program(VALUES, [f"assert {test}", f"assert {wrong}"])
    assert [result.passed for result in outcome.results] == [True, False], outcome


def test_attributes_of_the_programs_objects_can_be_set():
    setup = "root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)"
    assert check_program(VALUES, ["assert depth(root) == 3"], setup=setup).passed


def test_each_assert_counts_and_says_what_came():
    tests = [
        "for i in range(3):\n    assert f(i) < 2",
        "assert f(1) == 1",
        "try:\n    f('')\nexcept TypeError:\n    assert True",
    ]
    outcome = check_program("def f(x): return x + 0", tests)
    assert [result.passed for result in outcome.results] == [False, True, True]
    assert (
        outcome.feedback == "test 1 of 3 failed: f(i) < 2: the program gave 2"
        and outcome.share == pytest.approx(2 / 3)
    )


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("def f(x) return x", "SyntaxError"),
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("def g(x): return x", "name 'f' is not defined"),
        ("def f(x):\n    return 1 / 0", "ZeroDivisionError: division by zero (line 2 in f)"),
        ("class Own(Exception): pass\ndef f(x): raise Own('mine')", "Own: mine (line 2 in f)"),
    ],
)
def test_feedback_names_the_error_and_its_line(program, says):
    assert says in check_program(program, TWO).feedback


# The house of the sandbox


def test_tests_that_are_no_python_blame_nobody():
    with pytest.raises(SandboxError, match="the tests cannot be run"):
        check_program("def f(x): return x", ["assert f(1) =="])


def test_a_lost_harness_is_replaced():
    check_program("f = abs", ["assert f(1) == 1"])
    assert Local._here is not None
    Local._here._process.kill()
    Local._here._process.wait()
    assert check_program("f = abs", ["assert f(1) == 1"]).passed


def test_several_threads_share_one_harness():
    found = []

    def one(n: int) -> None:
        found.append(check_program(f"def f(): return {n}", [f"assert f() == {n}"]).passed)

    one(0)
    threads = [threading.Thread(target=one, args=(n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 5


def test_a_sandbox_of_ones_own():
    asked = []

    def run(program: str, stdin: str, limits: Limits) -> str:
        asked.append(limits)
        command = [sys.executable, "-I", "-S", "-"]
        command[-1:] = ["-c", program]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=30
        ).stdout

    outcome = check_program(
        "print('noise')\ndef f(x): return x * x",
        [*TWO, "assert f(1) == 2"],
        sandbox=run,
        limits=QUICK,
    )
    assert [result.passed for result in outcome.results] == [True, True, False] and asked == [QUICK]
    with pytest.raises(SandboxError, match="did not return the harness's report"):
        check_program(
            "def f(x): return x", TWO, sandbox=lambda program, stdin, limits: "all tests passed"
        )


# Objects of the program's own classes

OBJECTS = """
from collections import namedtuple
from dataclasses import dataclass
@dataclass(frozen=True, order=True)
class Point:
    x: int
class Vector:
    def __init__(self, x): self.x = x
    def __add__(self, other): return Vector(self.x + other.x)
    def __len__(self): return self.x
    def __iter__(self): return iter(range(self.x))
    def __getitem__(self, key): return key * 2
    def __str__(self): return f"<{self.x}>"
Pair = namedtuple("Pair", "left right")
def pair(a): return Pair(a, 2)
class Base(ValueError): pass
class Own(Base): pass
def fail(): raise Own("no")
"""


@pytest.mark.parametrize(
    "test",
    [
        "Point(1) == Point(1) and not Point(1) != Point(1)",
        "Point(1) != Point(2)",
        "Point(1) < Point(2)",
        "len({Point(1), Point(1), Point(2)}) == 2 and [Point(1)] == [Point(1)]",
        "(Vector(1) + Vector(2)).x == 3",
        "len(Vector(3)) == 3 and list(Vector(2)) == [0, 1] and 1 in Vector(2) and Vector(1)[4] == 8",
        "str(Vector(1)) == '<1>' and isinstance(Vector(1), Vector) and not isinstance(Vector(1), Point)",
        "pair(1).right == 2 and pair(1) == (1, 2) and pair(1)._fields == ('left', 'right')",
    ],
)
def test_objects_of_the_program_do_what_its_classes_say(test):
    outcome = check_program(OBJECTS, [f"assert {test}", f"assert not ({test})"])
    assert [result.passed for result in outcome.results] == [True, False], outcome


@pytest.mark.parametrize("caught", ["Own", "Base", "ValueError", "Exception"])
def test_exceptions_of_the_program_can_be_caught_by_name(caught):
    test = f"try:\n    fail()\nexcept {caught} as error:\n    assert 'no' in str(error)\nelse:\n    assert False"
    assert check_program(OBJECTS, [test]).passed
    assert not check_program(OBJECTS, [test.replace(caught, "KeyError", 1)]).passed


AGREEABLE = """
class Yes:
    def __eq__(self, other): return True
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__
    def __ne__(self, other): return False
    def __sub__(self, other): return 0.0
    __rsub__ = __mod__ = __sub__
    def __abs__(self): return self
    def __iter__(self): return iter([self])
    def __hash__(self): return 5
def f(x): return Yes()
"""


@pytest.mark.parametrize(
    "test",
    [
        "f(1) == 5",
        "5 == f(1)",
        "not f(1) != 5",
        "abs(f(1) - 5) < 1e-6",
        "5 - f(1) == 0",
        "f(1) < 5",
        "5 > f(1)",
        "5 in f(1)",
        "f(1) in [5]",
        "f(1) in {5}",
        "[f(1)] == [5]",
        "f(1) % 2 == 0",
    ],
)
def test_an_object_that_agrees_with_everything_equals_no_data(test):
    assert not check_program(AGREEABLE, [f"assert {test}"]).passed


# A machine that stands still


def descendants(pid: int) -> list[int]:
    """A process and all processes below it."""
    listing = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True).stdout
    parents = [tuple(map(int, line.split())) for line in listing.splitlines()]
    family = [pid]
    for one in family:
        family += [child for child, parent in parents if parent == one]
    return family


@pytest.mark.parametrize("stopped_s", [1.6, 3.4])
def test_a_stalled_machine_is_never_a_wrong_program(stopped_s):
    program = "import time\ndef f(x):\n    time.sleep(0.5)\n    return x"
    limits = Limits(wall_s=1.0)
    assert check_program("def f(x): return x", ["assert f(1) == 1"], limits=limits).passed

    def stop() -> None:
        family = descendants(Local._here._process.pid)
        for pid in family:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(stopped_s)
        for pid in reversed(family):
            os.kill(pid, signal.SIGCONT)

    stopper = threading.Timer(0.25, stop)
    stopper.start()
    try:
        passed = check_program(program, ["assert f(1) == 1"], limits=limits).passed
    except SandboxError as error:
        passed = None
        assert "stood still" in str(error)
    stopper.join()
    assert passed is not False
    assert not check_program(program, ["assert f(1) == 2"]).passed, "it judges again"


def test_a_slow_program_is_still_wrong():
    program = "import time\ndef f(x): time.sleep(9)"
    outcome = check_program(program, ["assert f(1) == 1"], limits=Limits(wall_s=0.5))
    assert not outcome.passed and "no reply in time" in outcome.results[0].reason


def test_an_alarm_of_the_program_is_its_own():
    program = "import signal\ndef f(): signal.raise_signal(signal.SIGALRM)"
    outcome = check_program(program, ["assert f() == 3"])
    assert outcome.feedback == "the program died of SIGALRM"
