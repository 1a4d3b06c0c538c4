"""Parts of a recipe by name, with checked parameters.

A name is that of a built-in part, `package.module:object`, or `path/to/file.py:object`:

    curriculum: uniform                                     built in
    curriculum: {use: ordered, by: level}                   built in, with a parameter
    curriculum: {use: "my_samplers.py:Sharp", power: 2.0}   from a file

A user's part needs no registration: it is imported from its file and called with the parameters
of its signature. A file is executed once per process, however many of its parts a recipe names, and
again only after its content has changed.
"""

from __future__ import annotations

import difflib
import hashlib
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

from rlcore.errors import RecipeError, RlcoreError, brief

Named = str | Mapping[str, Any]
"""How a recipe names a part: its name, or {use: name, parameter: value, ...}."""

_imported: dict[Path, tuple[bytes, ModuleType]] = {}
"""Resolved path of a file -> (its source when it was executed, its module)."""


def find(
    use: str, known: Mapping[str, str], *, what: str, error: type[RlcoreError] = RecipeError
) -> Any:
    """The object that `use` names.

    known: built-in name -> `package.module:object`. what: the kind of part, for messages.
    Raises `error` if there is none, or its module cannot be imported.
    """
    if not isinstance(use, str):
        raise error(f"the {what} is named by {brief(use)}; it must be a text")
    target = known.get(use, use)
    if ":" not in target:
        raise error(
            f"there is no {what} {use!r}{did_you_mean(use, known)}; "
            "name your own as 'package.module:name' or 'file.py:name'"
        )
    location, _, path = target.rpartition(":")
    part: Any
    if location.endswith(".py"):
        part = import_file(Path(location), what, error)
    else:
        part = _import_module(location, what, use, error)
    for attribute in path.split("."):
        if not hasattr(part, attribute):
            names = [name for name, value in vars(part).items() if callable(value)]
            raise error(
                f"{location} has no {path!r} ({what} {use!r}){did_you_mean(path, names)}"
            )
        part = getattr(part, attribute)
    return part


def file_and_name(value: str) -> tuple[str, str]:
    """`own.py:name` as "own.py" and ":name"; any other text whole, and "".

    >>> file_and_name("parts/own.py:name"), file_and_name("data.jsonl")
    (('parts/own.py', ':name'), ('data.jsonl', ''))
    """
    if ".py:" not in value:
        return value, ""
    file, colon, name = value.rpartition(":")
    return file, f"{colon}{name}"


def build(
    named: Named, known: Mapping[str, str], *given: Any, what: str, **context: Any
) -> Any:
    """Make the part that a recipe names: `part(*given, **context, **parameters)`.

    context: values offered to every part of this kind. A part receives those that its signature
    names; its other keyword parameters may be set by the recipe. Raises `RecipeError` for an
    unknown part or parameter, a missing one or a wrong type.
    """
    return build_later(named, known, what=what, given=len(given), **context)(*given)


def build_later(
    named: Named,
    known: Mapping[str, str],
    *,
    what: str,
    given: int,
    also: Collection[str] = (),
    **context: Any,
) -> partial[Any]:
    """Like `build`, but the first `given` arguments are passed later, to the returned function.

    also: keys that the recipe may set beside the parameters; they only serve suggestions.
    """
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
    _require_positional(part, given, owner=f"{what} {use!r}")
    accepted: dict[str, inspect.Parameter] = {}
    for parameter in list(signature(part).parameters.values())[given:]:
        if parameter.kind is not parameter.VAR_KEYWORD:
            accepted[parameter.name] = parameter
    settable = {name: parameter for name, parameter in accepted.items() if name not in context}
    check_params(params, settable, owner=f"{what} {use!r}", also=also)
    from_context = {name: value for name, value in context.items() if name in accepted}
    return partial(part, **from_context, **params)


def _require_positional(part: Callable[..., Any], given: int, *, owner: str) -> None:
    """Raise `RecipeError` for a function that cannot be called with so many arguments by position."""
    kinds = [parameter.kind for parameter in signature(part).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return
    by_position = (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    taken = sum(kind in by_position for kind in kinds)
    if taken < given:
        raise RecipeError(
            f"{owner} is called with {given} argument{'s'[: given != 1]} by position, and takes {taken}"
        )


def check_params(
    params: Mapping[str, Any],
    known: Mapping[str, inspect.Parameter],
    *,
    owner: str,
    also: Collection[str] = (),
) -> None:
    """Raise `RecipeError` for a parameter that is unknown, missing, or not of its annotated type.

    also: further names of the owner that are checked elsewhere; they only serve suggestions.
    """
    for key, value in params.items():
        if key not in known:
            suggestion = did_you_mean(key, [*known, *also])
            raise RecipeError(f"{owner} has no parameter {key!r}{suggestion}")
        check_type(owner, key, value, known[key].annotation)
    missing = []
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in params:
            missing.append(key)
    if missing:
        raise RecipeError(f"{owner} needs a value for {', '.join(missing)}")


def check_type(owner: str, key: str, value: Any, annotation: Any) -> None:
    """Raise `RecipeError` for a value that does not fit its annotation.

    Annotations that pydantic does not understand are not checked.
    """
    if annotation is inspect.Parameter.empty or isinstance(annotation, str):
        return
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(strict=True))
        try:
            # In strict JSON mode a list passes for a tuple, and a text does not for a number.
            adapter.validate_json(json.dumps(value))
        except TypeError:  # a date is no JSON
            adapter.validate_python(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"].replace("Input should", "must")
        raise RecipeError(
            f"{owner}: the parameter {key!r} {problem}, not {brief(value)}"
        ) from None
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return


def signature(part: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function or class, with its annotations evaluated if possible."""
    try:
        return inspect.signature(part, eval_str=True)
    except (NameError, AttributeError, TypeError, SyntaxError):
        # An annotation has a name that is imported for type checkers only.
        return inspect.signature(part)


def call(owner: str, part: Callable[..., Any], *given: Any) -> Any:
    """The result of a user's part. An exception becomes a `RecipeError` with file and line."""
    try:
        return part(*given)
    except RlcoreError:
        raise
    except Exception as problem:
        raise RecipeError(f"{owner} raised {in_words(problem)}") from problem


def import_file(
    path: Path, what: str = "Python", error: type[RlcoreError] = RecipeError
) -> ModuleType:
    """The module in a file, which can import its neighbours. Raises `error`.

    The file is executed once; later calls return the same module until the file changes.
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        neighbours = [other.name for other in path.parent.glob("*.py")]
        near = difflib.get_close_matches(path.name, neighbours, n=1, cutoff=0.8)
        raise error(f"there is no {what} file {path}{did_you_mean(path.name, near)}")
    source = path.read_bytes()
    if path in _imported and _imported[path][0] == source:
        return _imported[path][1]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    # Files of the same name in different folders must not replace each other in sys.modules.
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"rlcore_file_{path.stem}_{digest}", path)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a class's module up there
    with _import_errors(str(path), error):
        # Not through the loader: cached bytecode can be older than a file that was just changed.
        exec(compile(source, path, "exec"), vars(module))
    _imported[path] = (source, module)
    return module


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`; did you mean ...?`, or `; there are: ...`, or nothing if `known` is empty."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; there are: {', '.join(sorted(known)[:20])}" if known else ""


def _import_module(name: str, what: str, use: str, error: type[RlcoreError]) -> ModuleType:
    if "" not in sys.path:
        # A console script does not look in the working directory; `python -m` does.
        sys.path.append("")
    with _import_errors(f"{name} ({what} {use!r})", error):
        return importlib.import_module(name)


@contextmanager
def _import_errors(what: str, error: type[RlcoreError]) -> Iterator[None]:
    """Turns whatever an import raises into one sentence with file and line."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as problem:
        raise error(f"cannot import {what}: {in_words(problem)}") from problem


def in_words(problem: BaseException) -> str:
    """What was raised, with file and line."""
    last = traceback.extract_tb(problem.__traceback__)[-1]
    return f"{type(problem).__name__}: {problem} ({Path(last.filename).name}:{last.lineno})"
