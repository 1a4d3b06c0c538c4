"""The side nobody trusts: runs a program and does with it what the judge asks, call by call. It never sees a test.

Requests are `[what, ...]`: `run` a source text, or a `cell` for what it prints; look up a `name`, `call` an object, `get` or `set` an
attribute, apply an operator (`op`). Each has one reply, `{"value": ...}` or `{"error": [types, message, where]}`. Where a `call` gives
None, or the test drops its value (`act`), the arguments it `changed` go back too.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import io
import operator
import sys
import types
from collections.abc import Sequence
from typing import Any

from rewards.sandbox.wire import Gone, Line, decode, encode, exception_names

FILE = "<answer>"
LONGEST_OUTPUT = 1 << 20
"""Characters that a cell may print; the rest is dropped."""


def play(line: Line) -> None:
    """Serve requests until the judge goes."""
    module = types.ModuleType("solution")
    sys.modules["solution"] = module  # dataclasses and the like look their module up
    sys.argv = ["solution"]
    objects: list[Any] = []

    def keep(thing: Any) -> int:
        objects.append(thing)
        return len(objects) - 1

    def do(what: str, *given: Any) -> Any:
        if what == "run":
            return exec(compile(given[0], FILE, "exec"), module.__dict__)
        if what == "cell":
            return _cell(module, given[0])
        if what == "name":
            return _own(module, given[0])
        thing, arguments = (
            objects[given[0]],
            [decode(argument, objects.__getitem__) for argument in given[1:]],
        )
        if what in ("call", "act"):
            value = thing(*arguments[0], **arguments[1])
            if what == "act" or value is None:
                changes(given[1:], arguments)
            return value
        if what == "op":
            return _operate(thing, *arguments)
        return getattr(thing, arguments[0]) if what == "get" else setattr(thing, *arguments)

    def changes(sent: Sequence[Any], arguments: list[Any]) -> None:
        """What a function without a value may have done to its arguments goes back with the reply."""
        after = encode(arguments, keep)
        if after[1:] != list(sent):
            reply["changed"] = after

    reply: dict[str, Any] = {}
    while True:
        try:
            request = line.receive()
        except Gone:
            return
        try:
            reply.clear()
            reply["value"] = encode(do(*request), keep)
        except BaseException as error:  # SystemExit too: a program that exits has not answered
            reply.clear()
            reply["error"] = _describe(error)
        line.send(reply)


class _Output(io.StringIO):
    """The beginning of what is printed."""

    def write(self, text: str) -> int:
        super().write(text[: max(0, LONGEST_OUTPUT - self.tell())])
        return len(text)


def _cell(module: types.ModuleType, source: str) -> str:
    """Run a text as a notebook does: what it prints, the value of a last expression, or its error."""
    output = _Output()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            tree = ast.parse(source, FILE)
            last = (
                tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            )
            exec(compile(tree, FILE, "exec"), module.__dict__)
            if isinstance(last, ast.Expr):
                code = compile(ast.Expression(last.value), FILE, "eval")
                value = eval(code, module.__dict__)
                if value is not None:
                    print(repr(value))
        except BaseException as error:  # SystemExit too: the interpreter goes on
            (name, *_), message, where = _describe(error)
            text = f"{name}: {message}" if message else name
            print(f"{text} ({where})" if where else text)
    return output.getvalue()


def _operate(thing: Any, name: str, *given: Any) -> Any:
    """An operator or built-in function applied to an object of the program."""
    if name == "instance":
        return isinstance(given[0], thing)
    plain = {"and": "and_", "or": "or_"}.get(name, name)
    function = getattr(operator, plain, None) or getattr(builtins, plain)
    return function(thing, *given)


def _own(module: types.ModuleType, name: str) -> Any:
    if name not in module.__dict__:
        raise NameError(f"name {name!r} is not defined")
    return module.__dict__[name]


def _describe(error: BaseException) -> list[Any]:
    """Names of its type and bases, message and the innermost line of the program."""
    where, trace = "", error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            function = trace.tb_frame.f_code.co_name
            where = f"line {trace.tb_lineno}" + (
                f" in {function}" if function != "<module>" else ""
            )
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        where = f"line {error.lineno}"
    try:
        message = (error.msg if isinstance(error, SyntaxError) else str(error))[:300]
    except Exception:
        message = ""
    return [exception_names(type(error)), message, where]
