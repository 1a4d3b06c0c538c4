"""Values on the way between the judge and the program it does not trust: plain data only, never code, never pickle.

What arrives is rebuilt from built-in types, so an object whose `==` is always true, a list that lies about its length or a
string with methods of its own comes out as what it contains, or not at all. Anything that is no data stays where it is and
is known to the other side by a number, its handle.
"""

from __future__ import annotations

import builtins
import collections
import datetime
import decimal
import fractions
import functools
import itertools
import json
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

ENDED = "the process has ended"
LONGEST_ITERATOR = 100_000
MOST_DIGITS = 100_000
"""Before or behind the point of a decimal number."""
_SMALL = 1 << 53
MUTABLE = (
    list,
    dict,
    set,
    bytearray,
    collections.deque,
    collections.Counter,
    collections.OrderedDict,
)
"""Types of arguments in which a call may leave its result."""
BETWEEN_OBJECTS = tuple(
    "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift lt le gt ge".split()
)
"""Operators between two objects of the program, by the names of their methods."""
OPERATIONS = tuple("len iter bool str int float abs neg getitem setitem delitem".split())
"""Those of one object, whose results are data that a test judges."""


class Gone(Exception):
    """The other side has ended, is late, or sends what cannot be read."""


def encode(value: Any, handle: Callable[[Any], int]) -> Any:
    """A value as JSON: numbers, text, None as they are, the rest as `[kind, ...]`. `handle` numbers what is no data.

    Raises RecursionError for a value that holds itself, ValueError for an iterator without end.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, type) and vars(builtins).get(value.__name__) is value:
        return ["type", value.__name__]
    if isinstance(value, type) and issubclass(value, BaseException):
        return ["exception", exception_names(value)]
    for kind, to_json in _SCALARS.items():
        if isinstance(value, kind):
            return to_json(value)
    fields = getattr(type(value), "_fields", None)
    if isinstance(value, tuple) and isinstance(fields, tuple):
        return [
            "named",
            list(fields),
            *(encode(item, handle) for item in tuple.__iter__(value)),
        ]
    for name, kind, items in _CONTAINERS:
        if isinstance(value, kind):
            return [name, *(encode(item, handle) for item in items(value))]
    if isinstance(value, Iterator):
        items = list(itertools.islice(value, LONGEST_ITERATOR + 1))
        if len(items) > LONGEST_ITERATOR:
            raise ValueError(f"an iterator gave more than {LONGEST_ITERATOR:,} items")
        return ["iterator", *(encode(item, handle) for item in items)]
    return ["handle", handle(value)]


def decode(
    value: Any, handle: Callable[[int], Any], exception: Callable[[Any], Any] | None = None
) -> Any:
    """The value again. Raises ValueError, TypeError, KeyError and the like for what `encode` never writes.

    exception: the class for the names of an exception and its bases.
    """
    if not isinstance(value, list):
        return value
    name, *rest = value
    if name == "handle":
        return handle(int(rest[0]))
    if name == "exception" and exception is not None:
        return exception(rest[0])
    if name == "named":
        return _named_tuple(tuple(rest[0]))(
            *(decode(item, handle, exception) for item in rest[1:])
        )
    if name in _READ_SCALARS:
        return _READ_SCALARS[name](*rest)
    return _BUILD[name](decode(item, handle, exception) for item in rest)


def exception_names(kind: type[BaseException]) -> list[str]:
    """The names of an exception's class and its bases up to the first built-in one."""
    names = []
    for base in kind.__mro__:
        names.append(base.__name__)
        if vars(builtins).get(base.__name__) is base:
            break
    return names


@functools.lru_cache(maxsize=64)
def _named_tuple(fields: tuple[str, ...]) -> Any:
    return collections.namedtuple("NamedTuple", fields, rename=True)


def _whole(value: int) -> Any:
    number = int.__int__(value)
    return number if -_SMALL < number < _SMALL else ["int", int.__format__(number, "x")]


_SCALARS: dict[type, Callable[[Any], Any]] = {
    int: _whole,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: ["bytes", bytes.hex(value)],
    bytearray: lambda value: ["bytearray", bytearray.hex(value)],
    complex: lambda value: ["complex", value.real, value.imag],
    range: lambda value: ["range", _whole(value.start), _whole(value.stop), _whole(value.step)],
    decimal.Decimal: lambda value: ["decimal", decimal.Decimal.__str__(value)],
    # In whole numbers: from a text such as "1e99999999" a fraction takes minutes to build.
    fractions.Fraction: lambda value: [
        "fraction",
        f"{value.numerator:x}",
        f"{value.denominator:x}",
    ],
    datetime.datetime: lambda value: ["datetime", value.isoformat()],
    datetime.date: lambda value: ["date", value.isoformat()],
    datetime.time: lambda value: ["time", value.isoformat()],
    datetime.timedelta: lambda value: [
        "timedelta",
        value.days,
        value.seconds,
        value.microseconds,
    ],
}
_READ_SCALARS: dict[str, Callable[..., Any]] = {
    "type": lambda name: _builtin_types[name],
    "int": lambda text: int(text, 16),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "complex": complex,
    "range": lambda *ends: range(*(decode(end, _no_handle) for end in ends)),
    "decimal": lambda text: _decimal(text),
    "fraction": lambda above, below: fractions.Fraction(int(above, 16), int(below, 16)),
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": datetime.timedelta,
}


def _decimal(text: str) -> decimal.Decimal:
    """A number of ordinary size: `int()` of 1e99999999 would take minutes on our side."""
    number = decimal.Decimal(text)
    if number.is_finite() and abs(number.adjusted()) > MOST_DIGITS:
        raise ValueError(f"a decimal number of over {MOST_DIGITS:,} digits")
    return number


_builtin_types = {
    name: thing for name, thing in vars(builtins).items() if isinstance(thing, type)
}


def _pairs(value: dict[Any, Any]) -> Iterator[Any]:
    return itertools.chain.from_iterable(dict.items(value))


_KEYS, _VALUES, _ITEMS = type({}.keys()), type({}.values()), type({}.items())
_CONTAINERS: tuple[tuple[str, type, Callable[[Any], Iterator[Any]]], ...] = (
    ("list", list, list.__iter__),
    ("tuple", tuple, tuple.__iter__),
    ("set", set, set.__iter__),
    ("frozenset", frozenset, frozenset.__iter__),
    ("counter", collections.Counter, _pairs),
    (
        "ordered",
        collections.OrderedDict,
        lambda value: itertools.chain.from_iterable(collections.OrderedDict.items(value)),
    ),
    ("dict", dict, _pairs),
    ("deque", collections.deque, collections.deque.__iter__),
    ("keys", _KEYS, iter),
    ("items", _ITEMS, iter),
    ("list", _VALUES, iter),
)


def _mapping(items: Iterator[Any]) -> dict[Any, Any]:
    return dict(zip(items, items, strict=True))


_BUILD: dict[str, Callable[[Iterator[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": _mapping,
    "ordered": lambda items: collections.OrderedDict(_mapping(items)),
    "counter": lambda items: collections.Counter(_mapping(items)),
    "deque": collections.deque,
    "keys": lambda items: dict.fromkeys(items).keys(),
    "items": lambda items: dict(items).items(),
    "iterator": lambda items: iter(list(items)),
}


def _no_handle(number: int) -> Any:
    raise ValueError("a handle stands where a number belongs")


class Line:
    """One end of a stream socket that carries JSON messages, each after its length."""

    def __init__(self, end: socket.socket, *, longest: int) -> None:
        self.end, self.longest = end, longest
        self.late_s = 0.0
        """The longest time after its deadline at which a wait came back: this process stood still."""

    def send(self, message: Any, deadline: float | None = None) -> None:
        """Send a message. Raises `Gone`."""
        body = json.dumps(message).encode()
        self._timed(deadline, self.end.sendall, struct.pack(">Q", len(body)) + body)

    def receive(
        self, deadline: float | None = None, tick: Callable[[], None] | None = None
    ) -> Any:
        """The next message; `tick` is called every tenth of a second of waiting. Raises `Gone`."""
        (length,) = struct.unpack(">Q", self._exactly(8, deadline, tick))
        if length > self.longest:
            raise Gone(f"a reply of over {self.longest:,} bytes")
        try:
            return json.loads(self._exactly(length, deadline, tick))
        except (ValueError, RecursionError) as error:
            raise Gone(f"a reply that cannot be read ({type(error).__name__})") from None

    def _exactly(
        self, length: int, deadline: float | None, tick: Callable[[], None] | None
    ) -> bytes:
        parts: list[bytes] = []
        while length:
            step = None if tick is None else time.monotonic() + 0.1
            try:
                part = self._timed(
                    min(filter(None, (deadline, step)), default=None),
                    self.end.recv,
                    min(length, 1 << 20),
                )
            except TimeoutError:
                if tick is None or (deadline is not None and time.monotonic() >= deadline):
                    raise Gone("no reply in time") from None
                tick()
                continue
            if not part:
                raise Gone(ENDED)
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _timed(self, deadline: float | None, act: Callable[[Any], Any], given: Any) -> Any:
        until = None if deadline is None else max(time.monotonic() + 1e-3, deadline)
        self.end.settimeout(until and until - time.monotonic())
        try:
            return act(given)
        except TimeoutError:
            raise
        except OSError:
            raise Gone(ENDED) from None
        finally:
            if until is not None:
                self.late_s = max(self.late_s, time.monotonic() - until)
