"""YAML as recipes use it: read within bounds, and written so that reading gives the same values."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

import yaml

from rlcore.errors import RecipeError, brief

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000
"""Values of one text, with everything that its aliases repeat."""
MAX_DEPTH = 50
"""Lists and mappings inside one another."""
MAX_INT = 2**63 - 1
"""What fits the integers of the libraries below."""

_SCALARS = (str, bool, int, float, datetime.date, type(None))


class _Loader(yaml.SafeLoader):
    """1e-6 is a number, keys are text or whole numbers, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int) or isinstance(key, bool):
                problem = f"the key {brief(key)} is neither text nor a whole number: quote it"
                raise yaml.constructor.ConstructorError(
                    None, None, problem, key_node.start_mark
                )
            if key in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            keys.add(key)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Each `<<` copies the keys it names: a chain of them doubles and doubles."""
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            problem = f"its merge keys expand to over {MAX_VALUES:,} keys"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Writes every value where it stands: no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
for _yaml_class in (_Loader, _Dumper):
    # A text such as "1e6" is then written in quotes, since it would be read as a number.
    _yaml_class.add_implicit_resolver(
        "tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789")
    )


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, checked by `plain`. Raises `yaml.YAMLError`."""
    if len(text) > MAX_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text):,} characters, over {MAX_CHARACTERS:,}")
    try:
        value = yaml.load(text, Loader=_Loader)
    except RecursionError:
        raise yaml.YAMLError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except yaml.YAMLError:
        raise
    # What a tag promises and a value does not keep: a month 13, an integer of 5,000 digits, a
    # tag `!!int` before a list.
    except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
        problem = str(error).split(";")[0][:200]
        raise yaml.YAMLError(f"a value cannot be read: {problem}") from None
    try:
        return plain(value)
    except ValueError as error:
        raise yaml.YAMLError(str(error)) from None


def write_yaml(value: Any) -> str:
    """`value` as YAML, which `parse_yaml` reads as the same value."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=130)


def read_yaml(text: str, what: str) -> Any:
    """The value of a YAML text. Raises `RecipeError`, which begins with `what` the text is."""
    try:
        return parse_yaml(text)
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).split("\n")[0]
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: "
    raise RecipeError(f"{what} is not valid YAML: {place}{problem}")


def plain(value: Any) -> Any:
    """The value in dicts, lists and scalars of its own, fit to be written as YAML and read again.

    Raises `ValueError` for other types and for what exceeds the bounds above.
    """
    return _Copy().of(value, depth=0)


class _Copy:
    """One walk over a value, which counts what it meets."""

    def __init__(self) -> None:
        self._values = 0

    def of(self, value: Any, depth: int) -> Any:
        self._values += 1
        if self._values > MAX_VALUES:
            raise ValueError(f"it holds over {MAX_VALUES:,} values, aliases expanded")
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
        if isinstance(value, Mapping):
            return {_scalar(key): self.of(item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.of(item, depth + 1) for item in value]
        return _scalar(value)


def _scalar(value: Any) -> Any:
    if not isinstance(value, _SCALARS):
        kind = type(value).__name__
        raise ValueError(
            f"{brief(value)} is of type {kind}: use text, numbers, dates, lists and mappings"
        )
    if isinstance(value, int) and abs(value) > MAX_INT:
        raise ValueError(f"a whole number of over 63 bits: {brief(value)}")
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError(f"the text {brief(value)} holds a NUL character")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"the text {brief(value)} is no valid Unicode") from None
    for kind in (float, str):
        # A subclass such as numpy's float64 is written as what it is a kind of.
        if isinstance(value, kind):
            return kind(value)
    return value
