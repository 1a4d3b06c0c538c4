"""Parts of a recipe by name: one that is built in, `package.module:object`, or `path/to/file.py:object`, with checked parameters.

    curriculum: uniform                                     built in
    curriculum: {use: ordered, by: level}                   built in, with a parameter
    curriculum: {use: "my_samplers.py:Sharp", power: 2.0}   of a file

A part of your own needs no registration: it is found by its place and called with what its signature asks for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import json
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation

from rlcore.errors import RecipeError, RlcoreError

Named = str | Mapping[str, Any]
"""How a recipe says a part: its name, or {use: name, parameter: value, ...}."""


def find(
    use: str, known: Mapping[str, str], *, what: str, error: type[RlcoreError] = RecipeError
) -> Any:
    """The object that `use` names. known: built-in name -> `package.module:object`. what: the kind of part, for messages.

    Raises `error` if there is none, or its module cannot be imported.
    """
    target = known.get(use, use)
    if ":" not in target:
        raise error(
            f"there is no {what} {use!r}{did_you_mean(use, known)}; name your own as 'package.module:name' or 'file.py:name'"
        )
    place, _, path = target.rpartition(":")
    found: Any = (
        import_file(Path(place), what, error)
        if place.endswith(".py")
        else _import_module(place, what, use, error)
    )
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            names = [name for name, thing in vars(found).items() if callable(thing)]
            raise error(f"{place} has no {path!r} ({what} {use!r}){did_you_mean(path, names)}")
        found = getattr(found, attribute)
    return found


def build(named: Named, known: Mapping[str, str], *given: Any, what: str, **context: Any) -> Any:
    """Make the part a recipe names: `part(*given, **context, **parameters)`.

    Of `context`, what the engine offers to every part of the kind, a part is handed only what it asks for by name; the recipe
    may set the other keyword parameters. Raises `RecipeError` for an unknown part or parameter, a missing one or a wrong type.
    """
    return build_later(named, known, what=what, given=len(given), **context)(*given)


def build_later(
    named: Named, known: Mapping[str, str], *, what: str, given: int, **context: Any
) -> partial[Any]:
    """As `build`, to be called with the first `given` arguments when they are there."""
    params = {"use": named} if isinstance(named, str) else dict(named)
    use = params.pop("use", None)
    if not isinstance(use, str):
        raise RecipeError(
            f"{what} {params!r} names no part: add `use`, for example {{use: {next(iter(known))}}}"
        )
    part = find(use, known, what=what)
    if not callable(part):
        raise RecipeError(
            f"{what} {use!r} is of type {type(part).__name__}, not a function or class"
        )
    parameters = list(signature(part).parameters.values())[given:]
    asked = {
        parameter.name: parameter
        for parameter in parameters
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    own = {name: parameter for name, parameter in asked.items() if name not in context}
    check_params(params, own, owner=f"{what} {use!r}")
    return partial(
        part, **{name: value for name, value in context.items() if name in asked}, **params
    )


def check_params(
    params: Mapping[str, Any],
    known: Mapping[str, inspect.Parameter],
    *,
    owner: str,
    also: Collection[str] = (),
) -> None:
    """Raise `RecipeError` for a parameter that is unknown, missing, or not what its annotation says.

    also: names that belong to the owner and are checked elsewhere, for the suggestion.
    """
    for key, value in params.items():
        if key not in known:
            raise RecipeError(
                f"{owner} has no parameter {key!r}{did_you_mean(key, [*known, *also])}"
            )
        check_type(owner, key, value, known[key].annotation)
    missing = [
        key
        for key, parameter in known.items()
        if parameter.default is parameter.empty and key not in params
    ]
    if missing:
        raise RecipeError(f"{owner} needs a value for {', '.join(missing)}")


def check_type(owner: str, key: str, value: Any, annotation: Any) -> None:
    """Raise `RecipeError` for a value that is not what an annotation says, where pydantic understands the annotation."""
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return
    try:
        as_json = json.dumps(value)  # there a list is a tuple too, and still no text a number
        TypeAdapter(annotation, config=ConfigDict(strict=True)).validate_json(as_json)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"].replace("Input should", "must")
        raise RecipeError(f"{owner}: the parameter {key!r} {problem}, not {value!r}") from None
    except (TypeError, PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return


def signature(part: Callable[..., Any]) -> inspect.Signature:
    """That of a function or class, its annotations evaluated where they can be."""
    try:
        return inspect.signature(part, eval_str=True)
    except (
        NameError,
        AttributeError,
        TypeError,
        SyntaxError,
    ):  # of names that are imported for type checkers only
        return inspect.signature(part)


def call(owner: str, part: Callable[..., Any], *given: Any) -> Any:
    """What somebody's own part gives. Whatever it raises becomes a `RecipeError` of one sentence, with file and line."""
    try:
        return part(*given)
    except RlcoreError:
        raise
    except Exception as problem:
        raise RecipeError(f"{owner} raised {_in_words(problem)}") from problem


def import_file(path: Path, what: str, error: type[RlcoreError]) -> ModuleType:
    """The module in a file, whose neighbours it can import. Raises `error`."""
    path = path.expanduser().resolve()
    if not path.is_file():
        near = did_you_mean(path.name, [other.name for other in path.parent.glob("*.py")])
        raise error(f"there is no {what} file {path}{near}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(f"rlcore_{what}_file_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with _import_errors(str(path), error):
        spec.loader.exec_module(module)
    return module


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`; did you mean ...?`, or `; there are: ...`, or nothing where nothing is known."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; there are: {', '.join(sorted(known)[:20])}" if known else ""


def _import_module(name: str, what: str, use: str, error: type[RlcoreError]) -> ModuleType:
    if "" not in sys.path:
        sys.path.append(
            ""
        )  # a console script does not look in the working directory; `python -m` does
    with _import_errors(f"{name} ({what} {use!r})", error):
        return importlib.import_module(name)


@contextmanager
def _import_errors(what: str, error: type[RlcoreError]) -> Iterator[None]:
    """Whatever an import raises, as one sentence with file and line."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise error(f"cannot import {what}: {_in_words(problem)}") from problem


def _in_words(problem: BaseException) -> str:
    last = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}: {problem} ({Path(last.filename).name}:{last.lineno})"
