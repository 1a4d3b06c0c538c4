"""The program's exceptions on the side of the tests: built-in ones as they are, others by name."""

from __future__ import annotations

import builtins
from typing import Any


class ProgramError(Exception):
    """The program raised an exception of its own kind."""


class Exceptions:
    """A stand-in for each kind of exception that the program defines, so that a test can catch it."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, ...], type[Exception]] = {}

    def kind(self, names: Any) -> type[Exception]:
        """The class for the names of a class and its bases, nearest first. Raises TypeError for
        what are no names.
        """
        chain = tuple(names)
        if not all(isinstance(name, str) for name in chain) or len(chain) > 50:
            raise TypeError("names of exceptions are text")
        if not chain:
            return ProgramError
        built_in = getattr(builtins, chain[0], None)
        if isinstance(built_in, type) and issubclass(built_in, BaseException):
            # an assertion is the tests' to fail, and what is no Exception ends nothing here
            usable = issubclass(built_in, Exception) and built_in is not AssertionError
            return built_in if usable else ProgramError
        if chain not in self._kinds:
            self._kinds[chain] = type(chain[0][:100], (self.kind(chain[1:]),), {})
        return self._kinds[chain]

    def raised(self, error: Any) -> Exception:
        """What the program raised, from `[names, message, where]`."""
        names, message, where = (
            error if isinstance(error, list) and len(error) == 3 else ([], "", "")
        )
        text = f"{str(message)[:400]} ({str(where)[:400]})" if where else str(message)[:400]
        try:
            kind = self.kind(names)
            if kind.__module__ == "builtins":
                return kind(text)
        except TypeError:
            kind = ProgramError
        name = str(names[0])[:400] if isinstance(names, list) and names else ""
        if issubclass(kind, ProgramError) or kind.__module__ != "builtins":
            return _made(kind, f"{name}: {text}" if text else name)
        return ProgramError(f"{name}: {text}" if text else name)


def _made(kind: type[Exception], text: str) -> Exception:
    try:
        return kind(text)
    except TypeError:
        # a base such as UnicodeDecodeError wants more than a text
        return ProgramError(text)
