"""The side that holds the tests: runs them here, and asks the program's process for every value the program has to give.

Names a test uses and nobody defines on this side are the program's. Each `assert` counts by itself; what the program prints,
whether it exits and what it does to its own built-ins changes nothing but its replies.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import reprlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from rewards.sandbox.exceptions import Exceptions, ProgramError
from rewards.sandbox.wire import (
    BETWEEN_OBJECTS,
    MUTABLE,
    OPERATIONS,
    Gone,
    Line,
    decode,
    encode,
)


class Stop(BaseException):
    """The program can give no more values; not an Exception, so that no test swallows it."""


class Remote:
    """An object of the program that is no data: what is done with it is done over there.

    Two such objects are equal if their own `==` says so. None equals data, whatever it says: a test
    that compares with a number must get that number.
    """

    def __init__(self, judge: Judge, number: int) -> None:
        object.__setattr__(self, "_ask", judge.ask)
        object.__setattr__(self, "_number", number)

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self._ask("call", self._number, given, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", self._number, name, value)

    def __repr__(self) -> str:
        return "an object of the program"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._ask("op", self._number, "eq", other) is True

    def __hash__(self) -> int:
        return hash(self._ask("op", self._number, "hash"))

    def __instancecheck__(self, thing: object) -> bool:
        return self._ask("op", self._number, "instance", thing) is True


def _forwarded(name: str) -> Callable[..., Any]:
    def act(self: Remote, *given: Any) -> Any:
        # with data the program would learn what is expected of it, or say that it has it
        if name in BETWEEN_OBJECTS and not isinstance(given[0], Remote):
            return NotImplemented
        return self._ask("op", self._number, name, *given)

    return act


for _name in (*BETWEEN_OBJECTS, *OPERATIONS):
    setattr(Remote, f"__{_name}__", _forwarded(_name))


class Judge:
    """Runs tests against the program at the other end of `line`, until `deadline` (on the monotonic clock).

    `tick` is called now and then while the program works and may raise `Stop`.
    """

    def __init__(self, line: Line, deadline: float, tick: Callable[[], None]) -> None:
        self._line, self._deadline, self._tick = line, deadline, tick
        self._gave = ""
        self._stopped: Stop | None = None
        self._untravelled = ""
        self._exceptions = Exceptions()
        self.results: list[dict[str, Any]] = []

    def run(self, program: str, setup: str, tests: Sequence[str], names: Sequence[str]) -> str:
        """Fill `results`, one `{"test", "passed", "reason"}` an assert. Returns what went wrong outside of them, or "".

        names: what is the program's even if `setup` defines it. Raises SyntaxError or ValueError for tests that are none,
        and ValueError for tests that hand the program what cannot travel.
        """
        trees, asserts = [], []
        for test in tests:
            before = len(self.results)
            trees.append(self._number_asserts(ast.parse(test)))
            asserts.append(self.results[before:])
        if not self.results:
            raise ValueError("they hold no assert")
        try:
            self.ask("run", plain=program)
            space: dict[str, Any] = {
                "__name__": "tests",
                "__passed__": self._passed,
                "__failed__": self._failed,
                "__act__": self._act,
            }
            parsed_setup = ast.parse(setup)
            known = self._bind(space, [parsed_setup, *trees], names)
            exec(compile(parsed_setup, "<setup>", "exec"), space)
            space |= {name: known[name] for name in names if name in known}
            broken = [
                self._run_one(tree, space, own)
                for tree, own in zip(trees, asserts, strict=True)
            ]
            trouble = next((reason for reason in broken if reason), "")
        except Stop as stop:
            trouble = str(stop)
        except Exception as error:
            trouble = _say(error)
        if self._untravelled:
            raise ValueError(self._untravelled)
        for result in self.results:
            if result["passed"] is None and (trouble or result["reason"]):
                result.update(passed=False, reason=trouble)
        self.results = [
            result for result in self.results if result["passed"] is not None
        ]  # the rest were never reached
        return trouble

    def ask(self, what: str, *given: Any, plain: str | None = None) -> Any:
        """One request to the program's process and its value. Raises what the program raised, or `Stop`."""
        try:
            return self._asked(what, *given, plain=plain)
        except Stop as stop:
            self._stopped = stop  # a bare `except` of the test may swallow it
            raise

    def _asked(self, what: str, *given: Any, plain: str | None) -> Any:
        try:
            parts = (
                [plain]
                if plain is not None
                else [*given[:1], *(encode(part, self._number_of) for part in given[1:])]
            )
            self._line.send([what, *parts], self._deadline)
            reply = self._line.receive(self._deadline, self._tick)
        except TimeoutError:
            raise Stop("no reply in time") from None
        except Gone as gone:
            raise Stop(str(gone)) from None
        if not isinstance(reply, dict) or not reply.keys() & {"value", "error"}:
            raise Stop("a reply that cannot be read")
        if "error" in reply:
            raise self._exceptions.raised(reply["error"])
        try:
            value = self._decoded(reply["value"])
            if "changed" in reply:
                _copy_back(given[1:], self._decoded(reply["changed"]))
        except Exception as error:
            raise Stop(f"a reply that cannot be read ({type(error).__name__})") from None
        if what in ("call", "act"):
            self._gave = _short(value)
        return value

    def _decoded(self, value: Any) -> Any:
        return decode(value, lambda number: Remote(self, number), self._exceptions.kind)

    def _act(self, function: Any, /, *given: Any, **named: Any) -> Any:
        """A call whose value the test drops: it is made for what it does to its arguments."""
        if type(function) is not Remote:
            return function(*given, **named)
        return self.ask("act", object.__getattribute__(function, "_number"), given, named)

    def _bind(
        self, space: dict[str, Any], trees: Sequence[ast.Module], names: Sequence[str]
    ) -> dict[str, Any]:
        """Put the program's own names into `space`, and return them."""
        nodes = [node for tree in trees for node in ast.walk(tree)]
        used = {
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        free = used - _defined(nodes) - set(space)
        modules = {
            node.value.id
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        }
        for name in free & modules & sys.stdlib_module_names:
            space[name] = importlib.import_module(name)
        wanted = (free - set(dir(builtins)) - set(space)) | set(names)
        if not wanted:  # a program that is asked for a `sum` of its own
            wanted = free & {
                node.func.id
                for node in nodes
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
            }
        found = {}
        for name in sorted(wanted):
            try:
                found[name] = self.ask("name", plain=name)
            except NameError:
                pass  # the test that uses it says so
        space |= found
        return found

    def _run_one(
        self, tree: ast.Module, space: dict[str, Any], asserts: list[dict[str, Any]]
    ) -> str:
        """Run one test; where it ends well without reaching any of its `asserts` it has passed."""
        try:
            exec(compile(tree, "<test>", "exec"), space)
        except Exception as error:
            return _say(error)
        if self._stopped:
            raise self._stopped
        if asserts and all(result["passed"] is None for result in asserts):
            asserts[0]["passed"] = (
                True  # such as `try: f(-1); assert False` with `except ValueError: pass`
            )
        return ""

    def _number_of(self, thing: Any) -> int:
        if isinstance(thing, Remote):
            return object.__getattribute__(thing, "_number")
        self._untravelled = (
            f"a {type(thing).__name__} of the tests cannot be handed to the program"
        )
        raise TypeError(self._untravelled)

    def _number_asserts(self, tree: ast.Module) -> ast.Module:
        """Every `assert` reports its outcome under its number and lets the test go on."""
        judge = self

        class Numbered(ast.NodeTransformer):
            def visit_Expr(self, node: ast.Expr) -> ast.Expr:
                call = node.value
                if isinstance(call, ast.Call) and isinstance(
                    call.func, ast.Name | ast.Attribute
                ):
                    call.args.insert(0, call.func)
                    call.func = ast.Name("__act__", ast.Load())
                return ast.fix_missing_locations(node)

            def visit_Assert(self, node: ast.Assert) -> ast.Try:
                number = len(judge.results)
                judge.results.append(
                    {"test": ast.unparse(node.test)[:300], "passed": None, "reason": ""}
                )
                shape = f"try:\n assert 0\n __passed__({number})\nexcept BaseException as __e__:\n __failed__({number}, __e__)"
                (guarded,) = ast.parse(shape).body
                assert isinstance(guarded, ast.Try)
                guarded.body[0] = ast.Assert(test=node.test, msg=None)
                return ast.fix_missing_locations(ast.copy_location(guarded, node))

        return Numbered().visit(tree)

    def _passed(self, number: int) -> None:
        if self.results[number]["passed"] is None:
            self.results[number]["passed"] = True

    def _failed(self, number: int, error: BaseException) -> None:
        result = self.results[number]
        if result["passed"] is not False:
            gave = f"the program gave {self._gave}" if self._gave else "it does not hold"
            result.update(
                passed=False, reason=gave if isinstance(error, AssertionError) else _say(error)
            )
        if not isinstance(error, Exception):
            raise error


def _copy_back(arguments: Sequence[Any], changed: Sequence[Any]) -> None:
    """Put what a call changed in its arguments into the test's own lists, dictionaries and sets."""
    (ours, ours_named), (theirs, theirs_named) = arguments, changed
    pairs = [*zip(ours, theirs, strict=True)]
    pairs += [(ours_named[name], theirs_named[name]) for name in ours_named]
    for own, new in pairs:
        if type(own) in MUTABLE:
            own.clear()
            (own.extend if hasattr(own, "extend") else own.update)(new)


def _defined(nodes: Sequence[ast.AST]) -> set[str]:
    names = {
        node.id
        for node in nodes
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }
    names |= {
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.ExceptHandler) and node.name
    }
    names |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return names | {
        (node.asname or node.name).partition(".")[0]
        for node in nodes
        if isinstance(node, ast.alias)
    }


def _say(error: BaseException) -> str:
    if isinstance(error, Stop | ProgramError):
        return str(error)
    text = " ".join(str(error).split())[:400]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _short(value: Any) -> str:
    brief = reprlib.Repr()
    brief.maxlist = brief.maxtuple = brief.maxset = brief.maxdict = 12
    brief.maxstring = 100
    try:
        return brief.repr(value)[:200]
    except Exception:
        return f"a {type(value).__name__}"


def deadline_in(seconds: float) -> float:
    """That many seconds from now, on the clock of deadlines."""
    return time.monotonic() + seconds
